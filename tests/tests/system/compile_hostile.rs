//! Modules that are made to hurt a compiler. Each loses its own action at most.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wardian_server::config::Config;
use wardian_tests::{TestAction, TestServer, soon, until};

/// An unsigned LEB128 number.
fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn with_length(content: &[u8]) -> Vec<u8> {
    [&leb(content.len()), content].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &with_length(content)].concat()
}

/// A command of the given functions, the first of which is its entry. A function is its locals and its body.
fn module(functions: &[Vec<u8>], data: &[u8]) -> Bytes {
    let count = leb(functions.len());
    let types = section(1, &[1, 0x60, 0, 0]);
    let declared = section(3, &[&count[..], &vec![0; functions.len()]].concat());
    let memory = section(5, &[1, 0, 1]);
    let exports = [&[2][..], &with_length(b"_start"), &[0, 0], &with_length(b"memory"), &[2, 0]].concat();
    let bodies: Vec<u8> = functions.iter().flat_map(|function| with_length(function)).collect();
    let code = section(10, &[count, bodies].concat());
    let data = section(11, &[&[1, 1][..], &with_length(data)].concat());
    [&b"\0asm\x01\0\0\0"[..], &types, &declared, &memory, &section(7, &exports), &code, &data].concat().into()
}

/// A function without locals.
fn function(body: &[u8]) -> Vec<u8> {
    [&[0][..], body, &[0x0b]].concat()
}

fn entry() -> Vec<u8> {
    function(&[])
}

const BLOCK: [u8; 2] = [0x02, 0x40];
const END: u8 = 0x0b;

/// Little time and memory for the compiler.
fn tight(config: &mut Config) {
    config.worker.slots = 1;
    config.worker.compile.cpu_max = Duration::from_secs(2);
    config.worker.compile.child_memory_bytes_max = 512 << 20;
    config.worker.compile.artifact_bytes_max = 8 << 20;
}

/// Runs a module under tight limits; it gets through or loses its action, and the server is unharmed.
async fn verdict(module: Bytes, configure: impl FnOnce(&mut Config)) -> Option<String> {
    let server = TestServer::with(|config| {
        tight(config);
        configure(config);
    })
    .await;
    let ended = soon("a verdict", server.run(TestAction::wasm_tool(module, &[]))).await;
    let refusal = ended.refusal().map(|refusal| {
        let expected = [Code::ResourceExhausted, Code::InvalidArgument];
        assert!(expected.contains(&refusal.code), "{refusal:?}");
        refusal.message
    });
    let unfinished = || {
        let mut entries = std::fs::read_dir(server.compiled()).unwrap();
        !entries.any(|entry| entry.unwrap().file_name().to_string_lossy().ends_with(".tmp"))
    };
    until("nothing unfinished is left", unfinished).await;
    server.assert_unharmed().await;
    refusal
}

async fn exhausts(module: Bytes, limit: &str) {
    let message = verdict(module, |_| {}).await.expect("the module got through");
    assert!(message.contains(limit), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_functions_of_50000_locals() {
    // 50,000 locals in five bytes, a thousand times.
    let function = [&[1][..], &leb(50_000), &[0x7e, END]].concat();
    let functions: Vec<_> = std::iter::once(entry()).chain(vec![function; 20_000]).collect();
    exhausts(module(&functions, b""), "cpu_seconds_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_function_that_never_ends_compiling() {
    // Every block may leave to every other one, and all of them change the same locals.
    let mut body = [&[1][..], &leb(200), &[0x7e]].concat();
    let blocks = 20_000;
    for _ in 0..blocks {
        body.extend([0x03, 0x40]);
    }
    for block in 0..blocks {
        let local = leb(block % 200);
        let other = leb((block * 7 + 1) % 200);
        // local = local + other; if local == 0, go back to some loop around
        body.extend([&[0x20][..], &local, &[0x20], &other, &[0x7c, 0x22], &local, &[0x50, 0x0d]].concat());
        body.extend(leb((block * 31) % (blocks - block)));
        body.push(END);
    }
    body.push(END);
    exhausts(module(&[entry(), body], b""), "cpu_seconds_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_needs_much_memory() {
    let mut body = Vec::new();
    for _ in 0..400_000 {
        // Loads that nothing can be known about.
        body.extend([0x41, 0, 0x41, 0, 0x28, 2, 0, 0x36, 2, 0]);
    }
    let hog = module(&[entry(), function(&body)], b"");
    let little = |config: &mut Config| {
        config.worker.compile.child_memory_bytes_max = 96 << 20;
        config.worker.compile.cpu_max = Duration::from_secs(30);
    };
    let message = verdict(hog, little).await.expect("the module got through");
    assert!(message.contains("child_memory_bytes_max"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_data_segments() {
    exhausts(module(&[entry()], &vec![7; 20 << 20]), "artifact_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_nesting() {
    let depth = 1_000_000;
    let body = [BLOCK.repeat(depth), vec![END; depth]].concat();
    // Whatever comes of it.
    verdict(module(&[entry(), function(&body)], b""), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn giant_branch_tables() {
    let table = [&[0x41, 0, 0x0e][..], &leb(65_000), &vec![0; 65_001]].concat();
    let body = [&BLOCK[..], &table, &[END]].concat();
    let functions: Vec<_> = std::iter::once(entry()).chain(vec![function(&body); 200]).collect();
    verdict(module(&functions, b""), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_types_imports_and_exports() {
    let mut text = String::from("(module (memory (export \"memory\") 1) (func (export \"_start\"))");
    for i in 0..90_000 {
        text += &format!("(func (export \"f{i}\") (param i32))");
    }
    text += ")";
    verdict(wat::parse_str(text).unwrap().into(), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn components_in_components() {
    let mut text = String::from("(component)");
    for _ in 0..90 {
        text = format!("(component {text} {text_small})", text_small = "(component)");
    }
    verdict(wat::parse_str(text).unwrap().into(), |_| {}).await.expect("it is no command");
}
