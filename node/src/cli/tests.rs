//! The command line as users type it.

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn commands_are_read() {
    for line in [
        "tristream up",
        "tristream up --data-dir d --port 7000 --peer-port 8000 --respawn",
        "tristream node --config node.toml",
        "tristream node --az az-a --data-dir d --nodes az-a=a:1/a:2",
        "tristream stream create orders --shards 8 --wait",
        "tristream stream list --json --endpoint a:1 --endpoint b:2",
        "tristream stream describe orders",
        "tristream stream delete orders",
        "tristream stream split orders 3 --at 0x80000000000000000000000000000000",
        "tristream stream split orders shardId-000000000003 --no-wait",
        "tristream stream merge orders 3 4 --wait",
        "tristream stream scale orders --shards 8",
        "tristream stream mode orders on-demand",
        "tristream stream mode orders provisioned",
        "tristream stream shards orders --json --svg shards.svg",
        "tristream up --quotas off --dedupe on --retention-override 90s --on-demand-window 2m",
        "tristream node --config node.toml --quotas on",
        "tristream put orders hello --key k",
        "tristream put orders --file f --key-field 2 --delimiter ,",
        "tristream put orders -",
        "tristream tail orders --from trim-horizon --no-follow --shard 3 --raw",
        "tristream tail orders --from 5m --json",
        "tristream tail orders --from trim-horizon --no-follow --history h.jsonl",
        "tristream put orders - --history h.jsonl",
        "tristream status --watch --json",
        "tristream up --enable-faults",
        "tristream up --enable-faults=off --fault-token 0123456789abcdef",
        "tristream fault partition --az az-b --for 30s",
        "tristream fault partition --az az-b,az-c --from az-a --direction to --json",
        "tristream fault delay --az az-b --by 100ms --jitter 50ms",
        "tristream fault loss --az az-b --share 5% --endpoint a:1",
        "tristream fault pause --az az-b --for 5s --data-dir d",
        "tristream fault resume --az az-b",
        "tristream fault kill --az az-b",
        "tristream fault heal",
        "tristream fault heal --az az-b --token t",
        "tristream fault list --json",
        "tristream bench reshard",
        "tristream bench reshard --shards 2 --rate 100 --seconds 5 --splits 3 --json --endpoint a:1",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err().map(|e| e.to_string()));
    }
}

#[test]
fn nonsense_is_refused_before_anything_happens() {
    for line in [
        "tristream",
        "tristream up --port 0",
        "tristream up --port 70000",
        "tristream stream create",
        "tristream stream create a/b",
        "tristream stream create orders --shards 0",
        "tristream stream split orders",
        "tristream stream split orders x",
        "tristream stream split orders 3 --at -1",
        "tristream stream merge orders 3",
        "tristream stream scale orders",
        "tristream stream scale orders --shards 0",
        "tristream stream mode orders sometimes",
        "tristream up --quotas maybe",
        "tristream up --retention-override 0s",
        "tristream up --on-demand-window 60",
        "tristream put orders",
        "tristream put orders hello --file f",
        "tristream put orders --file f --key k --key-field 1",
        "tristream put orders --file f --key-field 0",
        "tristream put orders --file f --delimiter ,",
        "tristream tail orders --from yesterday",
        "tristream tail orders --json --raw",
        "tristream tail orders --shard x",
        "tristream fault",
        "tristream fault partition",
        "tristream fault partition --az az-b --direction sideways",
        "tristream fault partition --az az-b --for ever",
        "tristream fault delay --az az-b",
        "tristream fault loss --az az-b --share 200%",
        "tristream fault pause",
        "tristream bench",
        "tristream bench reshard --rate 0",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn endpoints_can_be_repeated_or_listed() {
    for line in
        ["tristream status --endpoint a:1 --endpoint b:2", "tristream status --endpoint a:1,b:2"]
    {
        let Ok(Command::Status(args)) = parse(line) else { panic!("{line}") };
        let text = format!("{args:?}");
        assert!(text.contains(r#"["a:1", "b:2"]"#), "{text}");
    }
}

#[test]
fn only_a_broken_pipe_is_a_quiet_end() {
    let broken = io::Error::from(io::ErrorKind::BrokenPipe);
    assert!(is_broken_pipe(&anyhow::Error::new(broken).context("cannot write")));
    let other = io::Error::from(io::ErrorKind::StorageFull);
    assert!(!is_broken_pipe(&anyhow::Error::new(other)));
}
