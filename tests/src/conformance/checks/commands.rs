//! Commands: platform, tool, environment, working directory, timeout.

use std::time::{Duration, SystemTime};

use tonic::Code;

use super::super::outcome::{ensure, ensure_eq};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::TestAction;

pub(super) const CHECKS: &[Check] = &[
    check!(act_02_the_actions_platform_counts: "ACT-02"),
    check!(act_02_without_one_the_commands_platform_counts: "ACT-02").own(),
    check!(act_03_the_case_of_properties_matters: "ACT-03").own(),
    check!(act_04_tools_are_found_by_path: "ACT-04"),
    check!(act_04_tools_are_found_by_name: "ACT-04"),
    check!(act_04_the_tool_sees_its_name_as_it_was_written: "ACT-04"),
    check!(act_05_variables_are_those_of_the_command: "ACT-05"),
    check!(act_05_variables_that_are_none_are_refused: "ACT-05").own(),
    check!(act_06_the_working_directory_is_in_the_input_root: "ACT-06"),
    check!(act_06_working_directories_that_are_not_there_are_refused: "ACT-06"),
    check!(act_11_node_properties_that_nobody_knows_are_refused: "ACT-11"),
    check!(act_12_a_timeout_ends_the_run: "ACT-12"),
    check!(act_12_waiting_does_not_count: "ACT-12"),
    check!(act_13_a_timeout_of_zero_is_none: "ACT-13").own(),
];

/// What the action says, after it succeeded.
async fn said(subject: &Subject, action: TestAction) -> Result<String, Stop> {
    let built = subject.upload(action).await?;
    let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
    Ok(String::from_utf8_lossy(&subject.stdout(&built, &result).await?).into())
}

#[allow(deprecated)]
fn with_command_platform(subject: &Subject, properties: &[(&str, &str)]) -> TestAction {
    let mut action = subject.script("true");
    action.command.platform = TestAction::new(&[]).platform(properties).action.platform;
    action
}

async fn act_02_the_actions_platform_counts(subject: &Subject) -> Verdict {
    let name = format!("property-{}", subject.fresh_name());
    let impossible = subject.platform_and(&[(&name, "any")]);
    let action = with_command_platform(subject, &impossible).platform(&subject.platform_and(&[]));
    subject.succeed(action).await?;
    Ok(())
}

async fn act_02_without_one_the_commands_platform_counts(subject: &Subject) -> Verdict {
    let action = with_command_platform(subject, &[("property-that-nobody-has", "any")]);
    let built = subject.upload(action).await?;
    subject.chose_fault(&built, Code::FailedPrecondition, "an impossible platform of the Command").await?;
    Ok(())
}

async fn act_03_the_case_of_properties_matters(subject: &Subject) -> Verdict {
    let os = std::env::consts::OS;
    subject.succeed(subject.script("true").platform(&[("OSFamily", os)])).await?;
    for platform in [[("osfamily", os)], [("isa", "x86-64")], [("ISA", "X86-64")]] {
        let built = subject.upload(subject.script("true").platform(&platform)).await?;
        subject.chose_fault(&built, Code::FailedPrecondition, &format!("platform {platform:?}")).await?;
    }
    Ok(())
}

/// A tool that says where it is run, in the input root's `bin` and on its own in `work`.
fn with_tool(subject: &Subject, argument: &str) -> TestAction {
    let tool = "#!/bin/sh\necho ran\n";
    let mut action = subject.script("").executable("bin/tool", tool).executable("work/own/tool", tool);
    action.command.arguments = vec![argument.into(), subject.fresh_name()];
    action.file("bin/data", "no tool")
}

async fn act_04_tools_are_found_by_path(subject: &Subject) -> Verdict {
    for (argument, directory) in
        [("bin/tool", ""), ("./bin/tool", ""), ("own/tool", "work"), ("../bin/tool", "work")]
    {
        let action = with_tool(subject, argument).working_directory(directory);
        ensure_eq!(said(subject, action).await?, "ran\n", "{argument} in {directory:?}");
    }
    ensure_eq!(said(subject, subject.script("echo ran")).await?, "ran\n", "an absolute path");
    for absent in ["bin/none", "/no/such/tool", "own/tool", "bin/data"] {
        let built = subject.upload(with_tool(subject, absent)).await?;
        // A server may as well say so by an exit code.
        match subject.attempt(subject.request(&built)).await? {
            Err(fault) if subject.is_own() => fault.must_be(Code::FailedPrecondition, absent)?,
            Err(_) => {}
            Ok(ended) => ensure!(
                ended.result().exit_code != 0 && !subject.is_own(),
                "{absent}: exit code {}",
                ended.result().exit_code
            ),
        }
    }
    Ok(())
}

async fn act_04_tools_are_found_by_name(subject: &Subject) -> Verdict {
    let version = subject.announced()?.high_api_version.as_ref().map(|v| (v.major, v.minor));
    if version.is_some_and(|version| version < (2, 3)) {
        return Err(Stop::skipped("names are looked up from version 2.3 on"));
    }
    let mut system = subject.script("echo ran");
    system.command.arguments[0] = "sh".into();
    ensure_eq!(said(subject, system).await?, "ran\n", "sh, on the PATH that was given");
    Ok(())
}

async fn act_04_the_tool_sees_its_name_as_it_was_written(subject: &Subject) -> Verdict {
    for argument in ["/bin/sh", "sh"] {
        let mut action = subject.script("").env("UNIQUE", &subject.fresh_name());
        // Without a word for it, $0 is argv[0].
        action.command.arguments = [argument, "-c", "echo \"$0\""].map(str::to_owned).to_vec();
        ensure_eq!(said(subject, action).await?, format!("{argument}\n"), "argv[0]");
    }
    Ok(())
}

async fn act_05_variables_are_those_of_the_command(subject: &Subject) -> Verdict {
    let script = "printf '%s|%s|%s|%s\\n' \"$HOME\" \"$OWN\" \"$PATH\" \"${EMPTY-unset}\"";
    let action = subject.script(script).env("HOME", "/else/where").env("OWN", "two words=x");
    // In order, as they must be.
    let mut action = action.env("EMPTY", "");
    action.command.environment_variables.sort_by(|a, b| a.name.cmp(&b.name));
    ensure_eq!(said(subject, action).await?, "/else/where|two words=x|/usr/bin:/bin|\n", "variables");
    Ok(())
}

async fn act_05_variables_that_are_none_are_refused(subject: &Subject) -> Verdict {
    for (what, name, value) in
        [("twice", "PATH", "/bin"), ("no name", "", "x"), ("= in a name", "A=B", "x"), ("NUL", "A", "x\0y")]
    {
        let built = subject.upload(subject.script("true").env(name, value)).await?;
        subject.chose_fault(&built, Code::InvalidArgument, what).await?;
    }
    Ok(())
}

async fn act_06_the_working_directory_is_in_the_input_root(subject: &Subject) -> Verdict {
    let action = |script: &str| {
        subject.script(script).directory("a/empty").file("a/b/file", "content\n").file("top", "top\n")
    };
    for (script, directory, expected) in [
        ("cat top a/b/file", "", "top\ncontent\n"),
        ("cat ../top b/file", "a", "top\ncontent\n"),
        ("cat ../../top ../b/file; ls -1A | wc -l | tr -d ' '", "a/empty", "top\ncontent\n0\n"),
    ] {
        let text = said(subject, action(script).working_directory(directory)).await?;
        ensure_eq!(text, expected, "in {directory:?}");
    }
    Ok(())
}

async fn act_06_working_directories_that_are_not_there_are_refused(subject: &Subject) -> Verdict {
    for directory in ["absent", "a/absent", "a/file", "..", "a/../..", "/tmp"] {
        let action = subject.script("true").file("a/file", "content").working_directory(directory);
        let built = subject.upload(action).await?;
        let what = format!("working directory {directory:?}");
        subject.chose_fault(&built, Code::InvalidArgument, &what).await?;
    }
    Ok(())
}

async fn act_11_node_properties_that_nobody_knows_are_refused(subject: &Subject) -> Verdict {
    let supported = subject.executes()?.supported_node_properties.clone();
    let unknown = format!("property-{}", subject.fresh_name());
    for property in ["mtime", "unix_mode", &unknown] {
        if supported.iter().any(|name| name == property) {
            continue;
        }
        let mut action = subject.script("echo x > out").outputs(&["out"]);
        action.command.output_node_properties = vec![property.into()];
        let what = format!("output_node_properties {property:?}");
        let built = subject.upload(action).await?;
        subject.fault(&built, &what).await?.must_be(Code::InvalidArgument, &what)?;
    }
    Ok(())
}

async fn act_12_a_timeout_ends_the_run(subject: &Subject) -> Verdict {
    let slow = subject.script("echo begun; sleep 25; echo over").timeout(Duration::from_secs(1));
    let built = subject.upload(slow).await?;
    let ended = subject.start(&built).await?.ended().await?;
    let status = ended.response.status.as_ref().map(|status| Code::from(status.code));
    ensure_eq!(status, Some(Code::DeadlineExceeded), "the status in the response");
    ensure!(!ended.response.cached_result, "cached_result of a run that was cut off");
    let again = subject.fault(&built, "the same again").await?;
    again.must_be(Code::DeadlineExceeded, "the same again")?;
    // Whoever ends in time ends as always.
    subject.succeed(subject.script("true").timeout(Duration::from_secs(25))).await?;
    Ok(())
}

async fn act_12_waiting_does_not_count(subject: &Subject) -> Verdict {
    const RUNS: usize = 12;
    let timeout = Duration::from_secs(3);
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let action = subject.script("sleep 1").do_not_cache().timeout(timeout);
        runs.push(subject.start(&subject.upload(action).await?).await?);
    }
    let mut longest = Duration::ZERO;
    for run in runs {
        let ended = run.ended().await?;
        let outcome = (ended.code(), ended.result().exit_code);
        ensure_eq!(outcome, (Code::Ok, 0), "one second of work in a timeout of three");
        let metadata = ended.result().execution_metadata.unwrap_or_default();
        let time = |time: Option<prost_types::Timestamp>| time.and_then(|t| SystemTime::try_from(t).ok());
        if let (Some(queued), Some(started)) =
            (time(metadata.queued_timestamp), time(metadata.execution_start_timestamp))
        {
            longest = longest.max(started.duration_since(queued).unwrap_or_default());
        }
    }
    if longest > timeout {
        return Ok(());
    }
    Err(Stop::skipped(format!("no action waited for longer than its timeout: {longest:?} at the most")))
}

async fn act_13_a_timeout_of_zero_is_none(subject: &Subject) -> Verdict {
    subject.succeed(subject.script("sleep 0.2").timeout(Duration::ZERO)).await?;
    for wire in
        [prost_types::Duration { seconds: -1, nanos: 0 }, prost_types::Duration { seconds: 0, nanos: -1 }]
    {
        let mut negative = subject.script("true");
        negative.action.timeout = Some(wire);
        let built = subject.upload(negative).await?;
        subject.chose_fault(&built, Code::InvalidArgument, &format!("a timeout of {wire:?}")).await?;
    }
    Ok(())
}
