//! Help, completions and the manual, which come from one definition.

use std::process::Command;

use crate::common::Finished;

fn slipring(args: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.args(args).output().unwrap().into()
}

/// The commands, and an option of each that no other has.
const COMMANDS: [(&str, &str); 11] = [
    ("embed", "--max-line"),
    ("bench", "--quick"),
    ("soak", "--kill-every"),
    ("doctor", "--no-measure"),
    ("top", "--once"),
    ("stat", "[PID]"),
    ("inspect", "<PID>"),
    ("prune", "--remove"),
    ("replay", "--one-by-one"),
    ("completions", "<SHELL>"),
    ("man", "[COMMAND]"),
];

#[test]
fn every_command_has_help_of_its_own_with_an_example() {
    for (command, option) in COMMANDS {
        let help = slipring(&[command, "--help"]).succeeded();
        assert_eq!(help.stderr, "");
        let text = help.stdout;
        assert!(text.contains(&format!("Usage: slipring {command}")), "{text}");
        assert!(text.contains(option), "{text}");
        assert!(text.contains("Example"), "{text}");
        assert!(text.contains(&format!("\n  slipring {command} ")), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
        for (other, foreign) in COMMANDS {
            assert!(other == command || !text.contains(foreign), "{foreign}: {text}");
        }
        assert_eq!(slipring(&["help", command]).succeeded().stdout, text);
        let short = slipring(&[command, "-h"]).succeeded().stdout;
        assert!(short.contains(option) && short.contains("Example"), "{short}");
        assert!(short.lines().all(|line| line.chars().count() <= 80), "{short}");
    }
}

#[test]
fn the_help_without_a_command_lists_all_of_them() {
    let help = slipring(&["--help"]).succeeded().stdout;
    for (command, _) in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    for word in ["Exit codes:", "NO_COLOR", "Example", "\n  slipring embed "] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for args in [&["help"][..], &["-h"]] {
        assert_eq!(slipring(args).succeeded().stdout, help);
    }
    assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
}

#[test]
fn the_exit_codes_of_every_command_are_in_the_table() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    for (command, _) in COMMANDS {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{command}` | ")));
        // The code 2 is the same for all.
        assert_eq!(row.map(|row| row.matches(" |").count()), Some(5), "{command}: {row:?}");
    }
    let help = slipring(&["--help"]).succeeded().stdout;
    for code in 0..5 {
        assert!(help.contains(&format!("\n    {code}  ")), "{code}: {help}");
    }
}

#[test]
fn help_for_a_command_that_there_is_not_is_a_usage_error() {
    let done = slipring(&["help", "embde"]);
    assert_eq!(done.code, 2);
    assert!(done.stderr.starts_with("slipring: unknown command 'embde'"), "{done:?}");
    assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    let done = slipring(&[]);
    let message =
        "slipring: a command is missing: slipring embed [FILE]... (see slipring --help)\n";
    assert_eq!((done.code, done.stderr.as_str()), (2, message));
}

#[test]
fn a_slip_of_the_finger_is_answered_with_what_may_be_meant() {
    for (args, meant) in [
        (&["embde"][..], "embed"),
        (&["embed", "--ouput", "x.npy"], "--output"),
        (&["soak", "--second", "1"], "--seconds"),
    ] {
        let done = slipring(args);
        assert_eq!(done.code, 2, "{done:?}");
        assert!(done.stderr.contains(&format!("did you mean '{meant}'?")), "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    }
}

#[test]
fn completions_know_every_command_and_option() {
    for (shell, checker) in [
        ("bash", Some("bash")),
        ("zsh", None),
        ("fish", None),
        ("elvish", None),
        ("powershell", None),
    ] {
        let script = slipring(&["completions", shell]).succeeded().stdout;
        for (command, option) in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
            let name = option.trim_start_matches("--");
            assert!(!option.starts_with("--") || script.contains(name), "{shell}: {option}");
        }
        if let Some(checker) = checker {
            let checked = Command::new(checker).args(["-n", "-c", &script]).output();
            assert!(checked.is_ok_and(|output| output.status.success()), "{shell}");
        }
    }
    assert_eq!(slipring(&["completions", "tcsh"]).code, 2);
}

#[test]
fn the_manual_has_a_page_for_the_program_and_each_command() {
    let page = slipring(&["man"]).succeeded().stdout;
    assert!(page.contains(".TH slipring 1") && page.contains("slipring\\-embed(1)"), "{page}");
    for (command, option) in COMMANDS {
        let page = slipring(&["man", command]).succeeded().stdout;
        assert!(page.contains(&format!(".TH slipring-{command} 1")), "{page}");
        let escaped = option.replace('-', "\\-");
        assert!(page.contains(escaped.trim_matches(['<', '>', '[', ']'])), "{option}: {page}");
        assert!(page.contains("Example") || page.contains("EXAMPLE"), "{page}");
    }
    assert_eq!(slipring(&["man", "embde"]).code, 2);
}
