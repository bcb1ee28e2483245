# SPDX-License-Identifier: Apache-2.0
"""How Bazel calls the toolchain `clang` of a Wardian server.

A WASI guest starts no other programs, so clang cannot be the linker's driver: wasm-ld is called directly, and none of
Bazel's own features are used, which say `-Wl,` and the like. The tools' paths are absolute: they do not exist on the
client, nor anywhere but in the input root that the server makes, which the guest sees as `/`.
"""

load("@bazel_tools//tools/build_defs/cc:action_names.bzl", "ACTION_NAMES")
load(
    "@bazel_tools//tools/cpp:cc_toolchain_config_lib.bzl",
    "action_config",
    "feature",
    "flag_group",
    "flag_set",
    "tool",
    "tool_path",
    "variable_with_value",
    "with_feature_set",
)

_MOUNT = "/opt/wardian/clang"
_SYSROOT = _MOUNT + "/usr"
_LIBRARIES = _SYSROOT + "/lib/wasm32-wasip1"

_C = [ACTION_NAMES.c_compile]
_CXX = [ACTION_NAMES.cpp_compile, ACTION_NAMES.cpp_header_parsing, ACTION_NAMES.linkstamp_compile]
_ASSEMBLE = [ACTION_NAMES.assemble, ACTION_NAMES.preprocess_assemble]
_PREPROCESS = _C + _CXX + [ACTION_NAMES.preprocess_assemble]
_COMPILE = _C + _CXX + _ASSEMBLE
_LINK = [ACTION_NAMES.cpp_link_executable]
_ARCHIVE = [ACTION_NAMES.cpp_link_static_library]

def _tools(names, path):
    return [
        action_config(action_name = name, enabled = True, tools = [tool(path = _MOUNT + "/bin/" + path)])
        for name in names
    ]

def _flags(actions, *groups):
    return flag_set(actions = actions, flag_groups = list(groups))

def _each(variable, *flags):
    """The flags once for each value of a list, if it is there."""
    return flag_group(flags = list(flags), iterate_over = variable, expand_if_available = variable)

def _if(variable, *flags):
    return flag_group(flags = list(flags), expand_if_available = variable)

def _always(name, *flag_sets):
    return feature(name = name, enabled = True, flag_sets = list(flag_sets))

def _whole_archive(flag):
    return flag_group(flags = [flag], expand_if_true = "libraries_to_link.is_whole_archive")

def _library(kind, *groups):
    return flag_group(
        flag_groups = list(groups),
        expand_if_equal = variable_with_value(name = "libraries_to_link.type", value = kind),
    )

_libraries = flag_group(
    iterate_over = "libraries_to_link",
    expand_if_available = "libraries_to_link",
    flag_groups = [
        _library(
            "object_file_group",
            flag_group(flags = ["--start-lib"], expand_if_false = "libraries_to_link.is_whole_archive"),
            flag_group(
                flags = ["%{libraries_to_link.object_files}"],
                iterate_over = "libraries_to_link.object_files",
            ),
            flag_group(flags = ["--end-lib"], expand_if_false = "libraries_to_link.is_whole_archive"),
        ),
        _library("object_file", flag_group(flags = ["%{libraries_to_link.name}"])),
        _library(
            "static_library",
            _whole_archive("--whole-archive"),
            flag_group(flags = ["%{libraries_to_link.name}"]),
            _whole_archive("--no-whole-archive"),
        ),
    ],
)

# What every compilation is given, then what depends on --compilation_mode.
_compile = [
    _flags(_COMPILE, flag_group(flags = [
        "--sysroot=" + _SYSROOT,
        "-resource-dir=" + _SYSROOT,
        "-fno-color-diagnostics",
    ])),
    _flags(_PREPROCESS, flag_group(flags = [
        "-Wall",
        "-Wno-builtin-macro-redefined",
        "-D__DATE__=\"redacted\"",
        "-D__TIME__=\"redacted\"",
        "-D__TIMESTAMP__=\"redacted\"",
    ])),
    # There is no unwinder for C++ exceptions in the package.
    _flags(_CXX, flag_group(flags = ["-std=c++17", "-fno-exceptions"])),
] + [
    flag_set(
        actions = _COMPILE,
        flag_groups = [flag_group(flags = flags)],
        with_features = [with_feature_set(features = [mode])],
    )
    for (mode, flags) in [
        ("dbg", ["-g"]),
        ("opt", ["-O2", "-DNDEBUG", "-ffunction-sections", "-fdata-sections"]),
    ]
]

_features = [
    feature(name = "no_legacy_features"),
    feature(name = "opt"),
    feature(name = "dbg"),
    feature(name = "fastbuild"),
    _always("wardian_compile", *_compile),
    _always(
        "dependency_file",
        _flags(_COMPILE, _if("dependency_file", "-MD", "-MF", "%{dependency_file}")),
    ),
    _always("random_seed", _flags(_CXX, _if("output_file", "-frandom-seed=%{output_file}"))),
    _always("preprocessor_defines", _flags(_PREPROCESS, _each("preprocessor_defines", "-D%{preprocessor_defines}"))),
    _always(
        "include_paths",
        _flags(
            _PREPROCESS,
            _each("includes", "-include", "%{includes}"),
            _each("quote_include_paths", "-iquote", "%{quote_include_paths}"),
            _each("include_paths", "-I%{include_paths}"),
            _each("system_include_paths", "-isystem", "%{system_include_paths}"),
        ),
    ),
    _always("user_compile_flags", _flags(_COMPILE, _each("user_compile_flags", "%{user_compile_flags}"))),
    _always(
        "compiler_input_and_output",
        _flags(
            _COMPILE,
            flag_group(flags = ["-c", "%{source_file}"], expand_if_available = "source_file"),
            _if("output_assembly_file", "-S"),
            _if("output_preprocess_file", "-E"),
            _if("output_file", "-o", "%{output_file}"),
        ),
    ),
    _always(
        "wardian_archive",
        _flags(
            _ARCHIVE,
            flag_group(flags = ["rcsD", "%{output_execpath}"], expand_if_available = "output_execpath"),
            flag_group(
                iterate_over = "libraries_to_link",
                expand_if_available = "libraries_to_link",
                flag_groups = [
                    _library("object_file", flag_group(flags = ["%{libraries_to_link.name}"])),
                    _library("object_file_group", flag_group(
                        flags = ["%{libraries_to_link.object_files}"],
                        iterate_over = "libraries_to_link.object_files",
                    )),
                ],
            ),
        ),
    ),
    _always(
        "wardian_link",
        _flags(
            _LINK,
            flag_group(flags = ["-m", "wasm32", "-L" + _LIBRARIES, _LIBRARIES + "/crt1-command.o"]),
            _if("strip_debug_symbols", "--strip-debug"),
            _each("linkstamp_paths", "%{linkstamp_paths}"),
            _each("library_search_directories", "-L%{library_search_directories}"),
            _libraries,
            _each("user_link_flags", "%{user_link_flags}"),
            flag_group(flags = ["-lc++", "-lc++abi", "-lc", _SYSROOT + "/lib/wasm32-unknown-wasip1/libclang_rt.builtins.a"]),
            flag_group(flags = ["-o", "%{output_execpath}"], expand_if_available = "output_execpath"),
        ),
    ),
    _always(
        "linker_param_file",
        _flags(_LINK + _ARCHIVE, flag_group(flags = ["@%{linker_param_file}"], expand_if_available = "linker_param_file")),
    ),
]

def _clang_config_impl(ctx):
    return cc_common.create_cc_toolchain_config_info(
        ctx = ctx,
        toolchain_identifier = "wardian-clang-wasm32-wasi",
        host_system_name = "wasi",
        target_system_name = "wasm32-wasip1",
        target_cpu = "wasm32",
        target_libc = "wasi-libc",
        compiler = "clang",
        abi_version = "wasip1",
        abi_libc_version = "wasi-libc",
        # Absolute, so that Bazel does not look for the toolchain's headers among the inputs.
        cxx_builtin_include_directories = [_SYSROOT],
        features = _features,
        action_configs = (
            _tools(_C + _ASSEMBLE, "clang") + _tools(_CXX, "clang++") + _tools(_LINK, "wasm-ld") +
            _tools(_ARCHIVE, "llvm-ar") +
            # Bazel insists on one. It is not in the package: building NAME.stripped fails and says so.
            _tools([ACTION_NAMES.strip], "llvm-strip")
        ),
        # Bazel wants to know these by name, and calls none of them.
        tool_paths = [
            tool_path(name = name, path = _MOUNT + "/bin/" + path)
            for (name, path) in [
                ("ar", "llvm-ar"),
                ("cpp", "clang"),
                ("gcc", "clang"),
                ("ld", "wasm-ld"),
                ("gcov", "none"),
                ("nm", "none"),
                ("objdump", "none"),
                ("strip", "none"),
            ]
        ],
    )

clang_config = rule(
    implementation = _clang_config_impl,
    doc = "The configuration of a cc_toolchain that is the server's clang.",
    provides = [CcToolchainConfigInfo],
)
