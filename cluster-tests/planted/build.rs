//! Switches the planted bugs of the node's library on: see `node/src/planted.rs`.

#[expect(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=planted");
}
