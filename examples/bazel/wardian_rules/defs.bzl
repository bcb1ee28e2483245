# SPDX-License-Identifier: Apache-2.0
"""Tools that were compiled to WASI, as actions on a Wardian server.

    wasm_tool   names a module that was built or that is in the source tree
    wasi_run    runs one, or a tool of one of the server's toolchains
"""

WasmToolInfo = provider(
    doc = "A WASI command and how it is called.",
    fields = {
        "module": "File: the module.",
        "arguments": "list of strings that come before an action's own arguments.",
        "environment": "dict of variables, which an action may override.",
    },
)

def _for_wasi_impl(settings, attr):
    return {"//command_line_option:platforms": [str(Label("//platforms:wasm32_wasi"))]}

_for_wasi = transition(
    implementation = _for_wasi_impl,
    inputs = [],
    outputs = ["//command_line_option:platforms"],
)

def _wasm_tool_impl(ctx):
    module = ctx.file.module
    link = ctx.actions.declare_file(ctx.label.name + ".wasm")
    ctx.actions.symlink(output = link, target_file = module)
    return [
        DefaultInfo(files = depset([link])),
        WasmToolInfo(module = link, arguments = ctx.attr.arguments, environment = ctx.attr.env),
    ]

wasm_tool = rule(
    implementation = _wasm_tool_impl,
    doc = "Names a WASI command: a .wasm file, or a cc_binary, which is built for WASI whatever else is built for.",
    attrs = {
        "module": attr.label(
            doc = "The module.",
            allow_single_file = True,
            cfg = _for_wasi,
            mandatory = True,
        ),
        "arguments": attr.string_list(doc = "Arguments that come before those of each action."),
        "env": attr.string_dict(doc = "Variables of each action."),
        "_allowlist_function_transition": attr.label(
            default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
        ),
    },
)

def _wasi_run_impl(ctx):
    environment = {}
    leading = []
    tools = []
    if ctx.attr.module and ctx.attr.command:
        fail("module and command exclude each other", "command")
    if ctx.attr.module:
        executable = ctx.file.module
        if WasmToolInfo in ctx.attr.module:
            info = ctx.attr.module[WasmToolInfo]
            leading = info.arguments
            environment.update(info.environment)
    elif ctx.attr.command:
        executable = ctx.attr.command
    else:
        fail("there is nothing to run: give module, or command and toolchain", "command")
    environment.update(ctx.attr.env)
    directories = [ctx.actions.declare_directory(name) for name in ctx.attr.out_dirs]
    if not ctx.outputs.outs and not directories:
        fail("an action without outputs is never run", "outs")
    places = {name: directory.path for (name, directory) in zip(ctx.attr.out_dirs, directories)}
    arguments = []
    for argument in ctx.attr.arguments:
        argument = ctx.expand_location(argument, ctx.attr.srcs)
        for (name, place) in places.items():
            argument = argument.replace("$(outdir %s)" % name, place)
        arguments.append(argument)
    outputs = ctx.outputs.outs + directories
    ctx.actions.run(
        executable = executable,
        arguments = leading + arguments,
        inputs = ctx.files.srcs,
        outputs = outputs,
        env = environment,
        mnemonic = "WasiRun",
        progress_message = "Running %s for %s" % (
            ctx.attr.command or ctx.file.module.short_path,
            ctx.label,
        ),
    )
    return [DefaultInfo(files = depset(outputs), runfiles = ctx.runfiles(files = outputs))]

_wasi_run = rule(
    implementation = _wasi_run_impl,
    # No execution platform but platforms:run_wasi and those like it is compatible, so that its exec_properties are
    # the Platform of the action.
    exec_compatible_with = [str(Label("//platforms:wasi"))],
    attrs = {
        "module": attr.label(allow_single_file = True),
        "command": attr.string(),
        "srcs": attr.label_list(allow_files = True),
        "outs": attr.output_list(),
        "out_dirs": attr.string_list(),
        "arguments": attr.string_list(),
        "env": attr.string_dict(),
    },
)

def wasi_run(name, module = None, toolchain = None, command = None, exec_properties = {}, **kwargs):
    """Runs a WASI command as one action on the server.

    Args:
      name: of the target.
      module: what to run: a .wasm file or a wasm_tool. Or, instead of it,
      toolchain: one of the server's, "NAME" or "NAME@VERSION", and
      command: the name of one of its tools (`wardian toolchain list`), such as "esbuild".
      exec_properties: further platform properties, such as {"wasm-memory": "268435456"}.
      **kwargs: srcs (what it reads), outs (files that it writes), out_dirs (directories that it writes), arguments
        (with $(location LABEL) of srcs and outs, and $(outdir NAME) of out_dirs), env; and what every rule has.
    """
    if (toolchain == None) != (command == None):
        fail("toolchain and command belong together")
    if toolchain != None:
        exec_properties = dict(exec_properties, toolchain = toolchain)
    _wasi_run(
        name = name,
        module = module,
        command = command,
        exec_properties = exec_properties,
        **kwargs
    )
