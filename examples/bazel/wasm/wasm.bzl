# SPDX-License-Identifier: Apache-2.0
"""wasm_run: an action whose program is a WASI command."""

def _wasm_run_impl(ctx):
    places = {"src": ctx.file.src.path, "out": ctx.outputs.out.path}
    ctx.actions.run(
        executable = ctx.file.tool,
        arguments = [a.format(**places) for a in ctx.attr.arguments],
        inputs = [ctx.file.src],
        outputs = [ctx.outputs.out],
        mnemonic = "WasmRun",
        progress_message = "Running %s on %s" % (
            ctx.file.tool.short_path,
            ctx.file.src.short_path,
        ),
    )
    return [DefaultInfo(files = depset([ctx.outputs.out]))]

wasm_run = rule(
    implementation = _wasm_run_impl,
    doc = "Runs a WASI preview 1 command on the remote execution server.",
    # What sends the action to the WASI executor: no execution platform but
    # //platforms:wasi is compatible, so its exec_properties are the Platform
    # of the action.
    exec_compatible_with = ["//platforms:wasi_preview1"],
    attrs = {
        "tool": attr.label(
            doc = "The .wasm file: a command, with a _start function.",
            allow_single_file = [".wasm"],
            cfg = "exec",
            mandatory = True,
        ),
        "src": attr.label(
            doc = "The file the command reads.",
            allow_single_file = True,
            mandatory = True,
        ),
        "out": attr.output(
            doc = "The file the command writes.",
            mandatory = True,
        ),
        "arguments": attr.string_list(
            doc = "The command's arguments; {src} and {out} are the paths.",
            default = ["{src}", "{out}"],
        ),
    },
)
