//! Switches the planted bugs of the node's library on: see `node/src/planted.rs`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cfg=planted");
}
