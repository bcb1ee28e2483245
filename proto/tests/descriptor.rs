//! Compares the compiled `.proto` files with `fields.txt`, both ways.
//!
//! Clients elsewhere are built from the original files: a changed number, type or name here would
//! still compile and would misread them. Options and extensions that `fields.txt` has no word for
//! show up as extra lines. The `google.protobuf` files come with the compiler and are left out.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

use wardian_proto::FILE_DESCRIPTOR_SET;

const LISTING: &str = include_str!("fields.txt");

/// Declarations in the words of `fields.txt`, each after the path of its file.
type Lines = BTreeSet<String>;

#[test]
fn declarations_are_those_listed() {
    let (listed, compiled) = (listed(), compiled(&descriptor_set()));
    let missing: Vec<_> = listed.difference(&compiled).map(String::as_str).collect();
    let extra: Vec<_> = compiled.difference(&listed).map(String::as_str).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "listed but not compiled:\n  {}\ncompiled but not listed:\n  {}",
        missing.join("\n  "),
        extra.join("\n  "),
    );
}

#[test]
fn listing_covers_every_file() {
    let files = listed().iter().filter(|line| line.contains(": file ")).count();
    assert_eq!(files, 15);
}

#[test]
fn every_import_is_in_the_set() {
    let set = descriptor_set();
    let present: BTreeSet<_> = set.file.iter().map(FileDescriptorProto::name).collect();
    for file in &set.file {
        for import in &file.dependency {
            assert!(present.contains(import.as_str()), "{} imports {import}", file.name());
        }
    }
}

/// The lines that differ after `change` was made to the compiled files.
fn noticed(change: impl FnOnce(&mut FileDescriptorProto)) -> Vec<String> {
    let mut set = descriptor_set();
    let before = compiled(&set);
    let bytestream = set.file.iter_mut().find(|file| file.name().ends_with("/bytestream.proto"));
    change(bytestream.expect("one of the files"));
    before.symmetric_difference(&compiled(&set)).cloned().collect()
}

#[test]
fn a_changed_number_is_noticed() {
    let lines = noticed(|file| file.message_type[0].field[0].number = Some(15));
    assert_eq!(
        lines,
        [
            "google/bytestream/bytestream.proto: field google.bytestream.ReadRequest resource_name 1 string singular -",
            "google/bytestream/bytestream.proto: field google.bytestream.ReadRequest resource_name 15 string singular -",
        ]
    );
}

#[test]
fn a_lost_stream_is_noticed() {
    assert_eq!(noticed(|file| file.service[0].method[0].server_streaming = None).len(), 2);
}

#[test]
fn a_new_option_is_noticed() {
    let lines = noticed(|file| file.options.get_or_insert_default().java_package = Some("x".into()));
    assert_eq!(lines, ["google/bytestream/bytestream.proto: options of the file"]);
}

fn descriptor_set() -> FileDescriptorSet {
    FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build encoded it")
}

fn listed() -> Lines {
    let mut lines = Lines::new();
    let mut path = "";
    for line in LISTING.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(file) = line.strip_prefix("file ") {
            path = file.split(' ').next().unwrap_or_default();
        }
        assert!(lines.insert(format!("{path}: {line}")), "listed twice: {line}");
    }
    lines
}

fn compiled(set: &FileDescriptorSet) -> Lines {
    let ours = set.file.iter().filter(|file| !file.name().starts_with("google/protobuf/"));
    let lines: Vec<_> = ours.flat_map(file_lines).collect();
    let distinct: Lines = lines.iter().cloned().collect();
    assert_eq!(lines.len(), distinct.len(), "a declaration is in the set twice");
    distinct
}

fn file_lines(file: &FileDescriptorProto) -> Vec<String> {
    let package = file.package();
    let mut out = vec![format!("file {} {package}", file.name())];
    if file.syntax() != "proto3" {
        out.push(format!("syntax {}", file.syntax()));
    }
    if !is_default(&file.options) {
        out.push("options of the file".to_owned());
    }
    out.extend(file.extension.iter().map(|field| format!("extension {}", field.name())));
    file.service.iter().for_each(|service| push_service(&mut out, package, service));
    file.message_type.iter().for_each(|message| push_message(&mut out, package, message));
    file.enum_type.iter().for_each(|item| push_enum(&mut out, package, item));
    out.iter().map(|line| format!("{}: {line}", file.name())).collect()
}

fn push_service(out: &mut Vec<String>, package: &str, service: &ServiceDescriptorProto) {
    let name = format!("{package}.{}", service.name());
    out.push(format!("service {name}"));
    if !is_default(&service.options) {
        out.push(format!("options of {name}"));
    }
    let arity = |streaming| if streaming { "stream" } else { "single" };
    for method in &service.method {
        out.push(format!(
            "rpc {name} {} {} {} {} {}",
            method.name(),
            arity(method.client_streaming()),
            full_name(method.input_type()),
            arity(method.server_streaming()),
            full_name(method.output_type()),
        ));
        if !is_default(&method.options) {
            out.push(format!("options of {name}.{}", method.name()));
        }
    }
}

fn push_message(out: &mut Vec<String>, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    out.push(format!("message {name}"));
    if !is_default(&message.options) {
        out.push(format!("options of {name}"));
    }
    out.extend(message.extension.iter().map(|field| format!("extension {}", field.name())));
    out.extend(message.reserved_name.iter().map(|field| format!("reserved name {name} {field}")));
    for range in &message.reserved_range {
        // The end is exclusive in a descriptor and inclusive in the listing, as in source text.
        out.push(format!("reserved {name} {} {}", range.start(), range.end() - 1));
    }

    // A map field is a repeated message that the compiler nests here; the source text has none.
    let is_map_entry =
        |nested: &DescriptorProto| nested.options.as_ref().is_some_and(|options| options.map_entry());
    let (entries, nested): (Vec<_>, Vec<_>) =
        message.nested_type.iter().partition(|nested| is_map_entry(nested));
    let maps: Maps<'_> = entries.iter().map(|entry| (format!("{name}.{}", entry.name()), *entry)).collect();

    for field in &message.field {
        out.push(format!(
            "field {name} {} {} {} {} {}",
            field.name(),
            field.number(),
            type_of(field, &maps),
            label_of(field),
            flags_of(field, message),
        ));
    }
    message.enum_type.iter().for_each(|item| push_enum(out, &name, item));
    nested.iter().for_each(|message| push_message(out, &name, message));
}

fn push_enum(out: &mut Vec<String>, scope: &str, item: &EnumDescriptorProto) {
    let name = format!("{scope}.{}", item.name());
    out.push(format!("enum {name}"));
    if !is_default(&item.options) {
        out.push(format!("options of {name}"));
    }
    out.extend(item.reserved_name.iter().map(|value| format!("reserved name {name} {value}")));
    for range in &item.reserved_range {
        out.push(format!("reserved {name} {} {}", range.start(), range.end()));
    }
    for value in &item.value {
        out.push(format!("value {name} {} {}", value.name(), value.number()));
        if !is_default(&value.options) {
            out.push(format!("options of {name}.{}", value.name()));
        }
    }
}

/// The entry types of a message's map fields, by full name.
type Maps<'a> = BTreeMap<String, &'a DescriptorProto>;

fn type_of(field: &FieldDescriptorProto, maps: &Maps<'_>) -> String {
    let name = full_name(field.type_name());
    if let Some(entry) = maps.get(name) {
        let parts: Vec<_> = entry.field.iter().map(|part| type_of(part, &Maps::new())).collect();
        return format!("map<{}>", parts.join(","));
    }
    match field.r#type() {
        Type::Message => format!("message:{name}"),
        Type::Enum => format!("enum:{name}"),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_ascii_lowercase(),
    }
}

fn label_of(field: &FieldDescriptorProto) -> &'static str {
    match field.label() {
        _ if field.proto3_optional() => "optional",
        Label::Optional => "singular",
        Label::Repeated => "repeated",
        Label::Required => "required",
    }
}

fn flags_of(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let mut flags = Vec::new();
    let mut options = field.options.clone().unwrap_or_default();
    if options.deprecated.take() == Some(true) {
        flags.push("deprecated".to_owned());
    }
    if options != Default::default() {
        flags.push("options".to_owned());
    }
    // The compiler wraps an `optional` field in a oneof of its own.
    if let (Some(index), false) = (field.oneof_index, field.proto3_optional()) {
        let index = usize::try_from(index).expect("an index into oneof_decl");
        flags.push(format!("oneof={}", message.oneof_decl[index].name()));
    }
    if flags.is_empty() { "-".to_owned() } else { flags.join(",") }
}

/// Drops the dot that marks a name in a descriptor as fully qualified.
fn full_name(name: &str) -> &str {
    name.strip_prefix('.').unwrap_or(name)
}

fn is_default<T: Default + PartialEq>(options: &Option<T>) -> bool {
    options.as_ref().is_none_or(|options| *options == T::default())
}
