use super::*;

fn embed(args: &[&str]) -> Result<Options, Error> {
    let args = std::iter::once("embed").chain(args.iter().copied());
    match parse(args.map(OsString::from))? {
        Parsed::Command(Command::Embed(options)) => Ok(options),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    <Program as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn without_options_the_defaults_of_the_help_hold() {
    let options = embed(&[]).unwrap();
    assert_eq!(options.inputs, [Input::Stdin]);
    assert_eq!(options.output, Target::parse("vectors.npy".into()).unwrap());
    assert_eq!((options.workers, options.batch, options.dim), (1, 64, 384));
    assert_eq!((options.max_line, options.timeout.as_secs()), (1_048_576, 60));
    assert!(!options.quiet);
}

#[test]
fn options_and_files_may_come_in_any_order() {
    let options = embed(&["a", "--dim=8", "-", "-o", "x.jsonl", "-q", "--", "--b"]).unwrap();
    let file = |name: &str| Input::File(name.into());
    assert_eq!(options.inputs, [file("a"), Input::Stdin, file("--b")]);
    assert_eq!((options.dim, options.quiet), (8, true));
}

#[test]
fn the_last_of_several_values_of_an_option_counts() {
    let options = embed(&["--dim", "8", "--dim=9", "-q", "-q", "-oa.npy", "--output=-"]).unwrap();
    assert_eq!((options.dim, options.quiet), (9, true));
    assert_eq!(options.output.to_string(), "standard output");
}

#[test]
fn a_name_of_a_file_need_not_be_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let name = OsString::from_vec(b"caf\xe9.txt".to_vec());
    let parsed = parse([OsString::from("embed"), name.clone()]).unwrap();
    let Parsed::Command(Command::Embed(options)) = parsed else { panic!("{parsed:?}") };
    assert_eq!(options.inputs, [Input::File(name.into())]);
}

#[test]
fn numbers_out_of_range_are_refused_with_the_range() {
    for value in ["0", "-1", "65537", "18446744073709551616", "", "x", "1.5"] {
        let error = embed(&["--dim", value]).unwrap_err();
        assert_eq!(error.exit().code(), 2);
        let text = error.to_string();
        assert!(text.contains("--dim takes a whole number from 1 to 65536"), "{text}");
    }
    for value in ["0", "-1", "nan", "inf", "1e9", "soon"] {
        assert!(embed(&["--timeout", value]).is_err(), "{value}");
    }
    assert_eq!(embed(&["--timeout", "0.5"]).unwrap().timeout.as_millis(), 500);
}

#[test]
fn what_is_unknown_is_named() {
    let error = embed(&["--frobnicate"]).unwrap_err().to_string();
    assert!(error.contains("--frobnicate"), "{error}");
    let error = parse(["fetch".into()]).unwrap_err().to_string();
    assert!(error.contains("unknown command 'fetch'"), "{error}");
    assert!(parse([]).unwrap_err().to_string().contains("a command is missing"));
    assert!(embed(&["--dim"]).unwrap_err().to_string().contains("--dim"));
}

#[test]
fn bench_takes_workloads_and_processors() {
    let bench = |args: &[&str]| {
        let args = std::iter::once("bench").chain(args.iter().copied());
        match parse(args.map(OsString::from))? {
            Parsed::Command(Command::Bench(request)) => Ok(Request::from(request)),
            other => panic!("{other:?}"),
        }
    };
    let request = bench(&["--quick", "--only", "W1,W4", "--cpus=0,1", "--json"]).unwrap();
    assert!(request.run.is_quick && request.json && request.plot.is_none());
    assert_eq!((request.run.only.len(), request.run.cpus), (2, Some((0, 1))));
    let error: Error = bench(&["--only", "W1,W9"]).unwrap_err();
    assert!(error.to_string().contains("not 'W9'"), "{error}");
    assert!(bench(&["--cpus", "1"]).is_err());
    let request = bench(&["--compare", "a.json", "b.json", "--json"]).unwrap();
    assert_eq!(request.compare, Some(["a.json".into(), "b.json".into()]));
    for wrong in [&["--compare", "a.json"][..], &["--compare", "a", "b", "--quick"]] {
        let error: Error = bench(wrong).unwrap_err();
        assert!(error.to_string().contains("--compare") && error.exit().code() == 2, "{error}");
    }
}

#[test]
fn help_and_version_come_before_or_after_the_command() {
    for args in [&["--help"][..], &["-h"], &["embed", "--help"], &["embed", "x", "-h"]] {
        let parsed = parse(args.iter().map(OsString::from)).unwrap();
        let is_help = matches!(&parsed, Parsed::Text(text) if text.contains("Usage: slipring"));
        assert!(is_help, "{args:?}: {parsed:?}");
    }
    for args in [&["--version"][..], &["embed", "-V"]] {
        let parsed = parse(args.iter().map(OsString::from)).unwrap();
        let is_version = matches!(&parsed, Parsed::Text(text) if text.starts_with("slipring "));
        assert!(is_version, "{args:?}: {parsed:?}");
    }
}
