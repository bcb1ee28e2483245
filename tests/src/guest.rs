//! Guests: the text modules in `guests/`, and preview-2 components made of them.

use std::path::Path;

use bytes::Bytes;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};

/// Assembles `guests/NAME.wat`.
#[track_caller]
pub fn guest(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(name).with_extension("wat");
    match wat::parse_file(&path) {
        Ok(module) => module.into(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Wraps a preview-1 guest into a preview-2 command, as toolchains do.
#[track_caller]
pub fn component_of(name: &str) -> Bytes {
    let encode = || {
        wit_component::ComponentEncoder::default()
            .module(&guest(name))?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)?
            .encode()
    };
    encode().expect("a guest makes a component").into()
}
