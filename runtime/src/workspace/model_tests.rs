//! Random histories of file operations, against the model.

use proptest::prelude::*;

use super::model::{LENGTHS, Model, OFFSETS, Op, compare, empty, step};
use super::test_store::{Store, limits};

fn path() -> impl Strategy<Value = String> {
    // `in` is a tree of the input, `a` and `b` are new.
    let name = prop::sample::select(vec!["a", "b", "in", "f", "large", "sub"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let offset = || prop::sample::select(OFFSETS.to_vec());
    let length = || prop::sample::select(LENGTHS.to_vec());
    prop_oneof![
        4 => (path(), offset(), length(), 1..9_u8)
            .prop_map(|(path, offset, length, fill)| Op::Write { path, offset, length, fill }),
        2 => (path(), length(), 1..9_u8).prop_map(|(path, length, fill)| Op::Append { path, length, fill }),
        2 => (path(), offset()).prop_map(|(path, size)| Op::Truncate { path, size }),
        3 => (path(), any::<bool>(), any::<bool>())
            .prop_map(|(path, exclusive, truncate)| Op::Create { path, exclusive, truncate }),
        3 => (path(), offset(), length()).prop_map(|(path, offset, length)| Op::Read { path, offset, length }),
        2 => path().prop_map(|path| Op::Unlink { path }),
        3 => path().prop_map(|path| Op::MakeDirectory { path }),
        2 => path().prop_map(|path| Op::RemoveDirectory { path }),
        4 => (path(), path()).prop_map(|(from, to)| Op::Rename { from, to }),
        2 => (path(), path()).prop_map(|(from, to)| Op::Link { from, to }),
        2 => path().prop_map(|path| Op::List { path }),
        1 => path().prop_map(|path| Op::Hold { path }),
        1 => (offset(), length(), 1..9_u8)
            .prop_map(|(offset, length, fill)| Op::WriteHeld { offset, length, fill }),
        1 => Just(Op::DropHeld),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn histories_end_as_in_the_model(
        ops in prop::collection::vec(op(), 1..50),
        memory in prop::sample::select(vec![0, 70_000, 1 << 30]),
    ) {
        let large: Vec<u8> = (0..140_000_u32).map(|i| (i % 251) as u8).collect();
        let files: [(&str, &[u8]); 4] =
            [("in/f", b"input"), ("in/large", &large), ("in/sub/f", b""), ("f", b"top")];
        let store = Store::shared();
        let root = store.tree(&files, &[]);
        let limits = super::WorkspaceLimits { wasm_workspace_memory_bytes_max: memory, ..limits() };
        let mut workspace = store.workspace_with(root, limits);
        let mut model = Model::input(&files);
        let mut held = None;
        for op in ops {
            step(&mut workspace, &mut held, &mut model, op);
        }
        compare(&mut workspace, &model);
        // Whatever was charged is given back once everything is gone.
        held.into_iter().for_each(|node| workspace.close(node));
        empty(&mut workspace);
        assert_eq!(workspace.in_use(), (0, 0));
    }
}
