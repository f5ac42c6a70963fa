//! The rules of the house, as far as a machine can see them.
//!
//! The law on imports is the drawing at the top of `node/src/lib.rs`: this test reads it and holds the code to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tristream_cluster_tests::binary::workspace_root;

/// A second look is due at 400 lines; above this a file is two things.
const FILE_LINES_MAX: usize = 600;
/// Files that were longer when the rule came, and how long they may be. Entries only shrink and go.
const LONG_FILES: [(&str, usize); 0] = [];
/// A name that says nothing about what is inside.
const BANNED_NAMES: [&str; 8] =
    ["util", "utils", "helper", "helpers", "common", "manager", "misc", "stuff"];

/// A source file: its path below the workspace root, and its text.
struct Source {
    path: String,
    text: String,
}

fn sources(extension: &str) -> Vec<Source> {
    let root = workspace_root();
    let mut found = Vec::new();
    for folder in ["proto", "client", "node", "cluster-tests", "xtask", "docs"] {
        collect(&root, &root.join(folder), extension, &mut found);
    }
    found
}

fn collect(root: &Path, folder: &Path, extension: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, extension, found);
        } else if path.extension().is_some_and(|end| end == extension) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let path = path.strip_prefix(root).unwrap_or(&path);
            found.push(Source { path: path.to_string_lossy().into_owned(), text });
        }
    }
}

/// The text without comments. (A `//` within a string ends the line too; that loses nothing we look for.)
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Floor of each module, from the drawing: 0 to 6, the roof 7.
fn floors(drawing: &str) -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for line in drawing.lines().filter_map(|line| line.strip_prefix("//!  ")) {
        let (floor, rest) = if let Some(rest) = line.strip_prefix("roof") {
            (7, rest)
        } else if let Some(rest) = line.strip_prefix("floor ") {
            let (number, rest) = rest.split_at(1);
            (number.parse().expect("a floor has a number"), rest)
        } else {
            continue;
        };
        // The names end at the wide gap before the explanation.
        let names = rest.trim_start().split("    ").next().unwrap_or("");
        for name in names.split_whitespace() {
            floors.insert(name.to_owned(), floor);
        }
    }
    floors
}

/// Top-level modules that a text names after `crate::`, through re-exports too.
fn imports(text: &str, exports: &BTreeMap<String, String>) -> BTreeSet<String> {
    let code = code(text);
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `tristream_crate::` are somebody else's.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => named.extend(group_heads(group)),
            None => named.extend(head(rest)),
        }
    }
    named.into_iter().map(|name| exports.get(&name).cloned().unwrap_or(name)).collect()
}

/// Top-level modules that a file reaches by `use super::`, as many times as it lies deep. Only lines without indent:
/// within an inline module `super` means the file itself.
fn climbs(path: &str, text: &str) -> BTreeSet<String> {
    let within = path.trim_start_matches("node/src/").trim_end_matches("/mod.rs");
    let depth = within.split('/').count();
    let uses = text.lines().filter_map(|line| {
        line.strip_prefix("use ").or_else(|| line.strip_prefix("pub(crate) use "))
    });
    uses.filter_map(|line| line.strip_prefix("super::".repeat(depth).as_str()).and_then(head))
        .collect()
}

fn head(text: &str) -> Option<String> {
    let name: String =
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// First words of the members of `{a::b, c::{d, e}, f}`, after the opening brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads: Vec<String> = head(group).into_iter().collect();
    let mut depth = 1;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => heads.extend(head(&group[at + 1..])),
            _ => {}
        }
    }
    heads
}

/// `pub use config::Config;` lets everybody say `crate::Config`.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let uses = lib.lines().filter_map(|line| line.strip_prefix("pub use "));
    uses.filter_map(|line| line.trim_end_matches(';').split_once("::"))
        .map(|(module, name)| (name.to_owned(), module.to_owned()))
        .collect()
}

/// Why a module on its floor may not import another; none if it may.
fn refusal(floors: &BTreeMap<String, u32>, from: &str, to: &str) -> Option<String> {
    let own = floors.get(from)?;
    let Some(other) = floors.get(to) else {
        return Some(format!("{to} is on no floor of the drawing"));
    };
    match own {
        _ if from == to => None,
        7 => None,
        0 if *other == 0 => None,
        _ if other == own => Some(format!("{from} and {to} are siblings on floor {own}")),
        _ if other > own => Some(format!("{to} (floor {other}) is above {from} (floor {own})")),
        _ => None,
    }
}

/// `node/src/http/server.rs` and `node/src/http.rs` belong to `http`.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("node/src/")?;
    rest.split('/').next().map(|first| first.trim_end_matches(".rs"))
}

#[test]
fn imports_only_go_down_the_floors() {
    let sources = sources("rs");
    let lib = &sources.iter().find(|file| file.path == "node/src/lib.rs").unwrap().text;
    let (floors, exports) = (floors(lib), exports(lib));
    assert!(floors.len() > 15, "the drawing was not understood: {floors:?}");
    let mut wrong = Vec::new();
    for line in code(lib).lines().filter_map(|line| line.trim().strip_prefix("pub mod ")) {
        let module = line.trim_end_matches(';');
        if !floors.contains_key(module) {
            wrong.push(format!("node/src/lib.rs: {module} is missing in the drawing"));
        }
    }
    for file in &sources {
        let Some(module) = module_of(&file.path).filter(|module| *module != "lib") else {
            continue;
        };
        let climbed = climbs(&file.path, &file.text);
        for import in imports(&file.text, &exports).union(&climbed) {
            if let Some(why) = refusal(&floors, module, import) {
                wrong.push(format!("{}: {why}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "imports only go down:\n{}", wrong.join("\n"));
}

#[test]
fn only_raft_says_openraft_and_only_one_file_says_sled() {
    let mut wrong = Vec::new();
    for file in sources("rs").iter().filter(|file| file.path != "cluster-tests/tests/house.rs") {
        let code = code(&file.text);
        if !file.path.starts_with("node/src/raft") && code.contains("openraft") {
            wrong.push(format!("{} says openraft", file.path));
        }
        let may_say_sled = ["node/src/state/sled.rs", "node/src/state/sled/"];
        let says = ["sled::", "use sled"].iter().any(|word| code.contains(word));
        // `state/mod.rs` says `mod sled` and `sled::open`, of our own module.
        let own = file.path.starts_with("node/src/state/") && !code.contains("::sled::");
        if says && !own && !may_say_sled.iter().any(|path| file.path.starts_with(path)) {
            wrong.push(format!("{} says sled", file.path));
        }
    }
    // The second is the node once more, with its planted bugs.
    let node = ["node/Cargo.toml", "cluster-tests/planted/Cargo.toml"];
    for file in sources("toml").iter().filter(|file| !node.contains(&&*file.path)) {
        for word in ["openraft", "sled"] {
            if file.text.lines().any(|line| line.starts_with(word)) {
                wrong.push(format!("{} depends on {word}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = sources("rs")
        .into_iter()
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| file.path)
        .collect();
    assert!(silent.is_empty(), "these do not start with `//!`: {silent:#?}");
}

#[test]
fn nothing_is_left_over() {
    // Written so that this file does not meet its own rule.
    let words =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"], ["unimpl", "emented!("], ["to", "do!("]]
            .map(|halves| halves.concat());
    let mut left = Vec::new();
    for extension in ["rs", "proto", "md", "toml"] {
        for file in sources(extension) {
            for (number, line) in file.text.lines().enumerate() {
                if words.iter().any(|word| line.contains(word.as_str())) {
                    left.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
                }
            }
        }
    }
    assert!(left.is_empty(), "left over:\n{}", left.join("\n"));
}

#[test]
fn names_say_what_is_inside() {
    let banned: Vec<String> = sources("rs")
        .into_iter()
        .map(|file| file.path)
        .filter(|path| {
            path.split('/').any(|part| BANNED_NAMES.contains(&part.trim_end_matches(".rs")))
        })
        .collect();
    assert!(banned.is_empty(), "{banned:#?}");
}

#[test]
fn files_stay_short() {
    let allowed: BTreeMap<&str, usize> = LONG_FILES.into_iter().collect();
    let mut wrong = Vec::new();
    for file in sources("rs") {
        let lines = file.text.lines().count();
        match allowed.get(file.path.as_str()) {
            Some(most) if lines > *most => {
                wrong.push(format!("{} grew to {lines} lines, from {most}", file.path));
            }
            Some(_) if lines <= FILE_LINES_MAX => {
                wrong.push(format!("{} is short enough now: strike it from LONG_FILES", file.path));
            }
            None if lines > FILE_LINES_MAX => {
                wrong.push(format!("{} has {lines} lines: cut it at a thought", file.path));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

mod the_rules_bark {
    //! A rule that cannot fail is none.

    use super::*;

    const DRAWING: &str = "\
//! ```text
//!  roof     main  cli         may import every floor
//!  floor 2  router   placement                  a | b
//!  floor 1  log                                 c
//!  floor 0  world disk     d
//!  ground   proto     e
";

    #[test]
    fn the_drawing_is_read() {
        let floors = floors(DRAWING);
        let floor = |name: &str| floors.get(name).copied();
        assert_eq!(floors.len(), 7);
        assert_eq!((floor("cli"), floor("placement"), floor("disk")), (Some(7), Some(2), Some(0)));
    }

    #[test]
    fn imports_are_seen_in_every_form() {
        let exports = exports("pub use config::Config;\n");
        let text = "
            use crate::log::Log; // crate::comment::only
            use crate::{disk, router::{self, Route}, world::World};
            fn f() -> crate::Config { $crate::own::macro_path() }
        ";
        let found: Vec<String> = imports(text, &exports).into_iter().collect();
        assert_eq!(found, ["config", "disk", "log", "own", "router", "world"]);
    }

    #[test]
    fn climbing_out_of_the_own_module_is_seen() {
        let found = |path, text| climbs(path, text).into_iter().collect::<Vec<_>>();
        assert_eq!(found("node/src/log/mod.rs", "use super::router::Route;\n"), ["router"]);
        assert_eq!(
            found("node/src/log/a.rs", "use super::frame;\nuse super::super::api;\n"),
            ["api"]
        );
        assert!(found("node/src/log/mod.rs", "mod tests {\n    use super::frame;\n}\n").is_empty());
    }

    #[test]
    fn upward_and_sideways_imports_are_refused() {
        let floors = floors(DRAWING);
        assert!(refusal(&floors, "log", "router").is_some(), "upward");
        assert!(refusal(&floors, "router", "placement").is_some(), "sideways");
        assert!(refusal(&floors, "log", "cli").is_some(), "the roof");
        assert!(refusal(&floors, "log", "nowhere").is_some(), "not drawn");
        assert_eq!(refusal(&floors, "router", "disk"), None);
        assert_eq!(refusal(&floors, "cli", "main"), None);
        assert_eq!(refusal(&floors, "world", "disk"), None);
    }
}
