//! What must hold of all requests of a trial, whatever was done to the hosts.

use std::collections::{HashMap, HashSet};

use crate::lines::{Asked, Line, Says};

/// How often a request is begun that may be served twice: at three gateways, and by three workers of each.
const MOST_BEGUN: usize = 9;

/// A request that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    pub number: u64,
    pub kind: String,
    pub message: String,
    /// The host that its first chunk came from.
    pub streamed_from: Option<String>,
}

#[derive(Default)]
struct Request {
    asked: Option<Asked>,
    streamed_from: Option<String>,
    /// How often it was told to be over.
    outcomes: usize,
    /// The one that it was answered by.
    execution: Option<String>,
    was_begun: Option<bool>,
}

/// Checks the lines of a caller, which was killed or has ended, against what the workers wrote.
/// Returns the requests that failed, or what is wrong.
pub fn check(lines: &[Line], journal: &str, was_killed: bool) -> Result<Vec<Failed>, String> {
    let (requests, failed) = collect(lines)?;
    let begun = begun(journal);
    let mut executions = HashSet::new();
    for (number, request) in &requests {
        let asked = request.asked.ok_or_else(|| format!("{number} is over, and was never sent"))?;
        let begun = begun.get(number).map(Vec::as_slice).unwrap_or_default();
        let outcomes = if was_killed { 0..=1 } else { 1..=1 };
        let count = request.outcomes;
        holds(outcomes.contains(&count), || format!("{number}: {count} outcomes"))?;
        let is_once = asked == Asked::Again || begun.len() <= 1;
        holds(is_once, || format!("{number} was begun more than once: {begun:?}"))?;
        let is_bounded = begun.len() <= MOST_BEGUN;
        holds(is_bounded, || format!("{number} was begun too often: {begun:?}"))?;
        let is_true = request.was_begun != Some(false) || begun.is_empty();
        holds(is_true, || format!("{number} is said to be unbegun: {begun:?}"))?;
        if let Some(execution) = &request.execution {
            let is_known = begun.contains(&execution.as_str());
            holds(is_known, || format!("{number}: {execution}, of {begun:?}"))?;
            let is_new = executions.insert(execution);
            holds(is_new, || format!("{execution} was delivered twice"))?;
        }
    }
    for failed in &failed {
        let request = &requests[&failed.number];
        // There was another host to serve it.
        let may_fail = request.was_begun != Some(false) && request.asked != Some(Asked::Again);
        holds(may_fail, || format!("it should be sent again: {failed:?}"))?;
        let is_seen = request.was_begun == Some(true) || failed.streamed_from.is_none();
        holds(is_seen, || format!("it was seen begun: {failed:?}"))?;
    }
    Ok(failed)
}

fn holds(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

fn collect(lines: &[Line]) -> Result<(HashMap<u64, Request>, Vec<Failed>), String> {
    let (mut requests, mut failed) = (HashMap::<u64, Request>::new(), Vec::new());
    for line in lines {
        match &line.says {
            Says::Sent { number, asked } => {
                let before = requests.entry(*number).or_default().asked.replace(*asked);
                holds(before.is_none(), || format!("{number} was sent twice"))?;
            }
            Says::First { number, host } => {
                requests.entry(*number).or_default().streamed_from = Some(host.clone());
            }
            Says::Answered { number, execution, .. } => {
                let request = requests.entry(*number).or_default();
                request.outcomes += 1;
                request.execution = Some(execution.clone());
            }
            Says::Failed { number, kind, was_begun, message } => {
                let request = requests.entry(*number).or_default();
                request.outcomes += 1;
                request.was_begun = *was_begun;
                failed.push(Failed {
                    number: *number,
                    kind: kind.clone(),
                    message: message.clone(),
                    streamed_from: request.streamed_from.clone(),
                });
            }
            Says::Wrong(what) => return Err(format!("wrong: {what}")),
            Says::State { .. } | Says::End => {}
        }
    }
    Ok((requests, failed))
}

/// The executions of each request.
fn begun(journal: &str) -> HashMap<u64, Vec<&str>> {
    let mut begun = HashMap::<u64, Vec<&str>>::new();
    for line in journal.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let &[what, _, number, execution] = words.as_slice() else { panic!("{line}") };
        if what == "begin" {
            begun.entry(number.parse().unwrap()).or_default().push(execution);
        }
    }
    begun
}

/// Each rule finds what breaks it.
pub fn are_kept_and_broken() {
    let sent = "sent 1 7 once\nsent 1 8 again\nsent 1 9 chunks\nfirst 2 9 here";
    let ends = "answered 3 7 here 1.1\nanswered 3 8 here 1.2\nfailed 3 9 Disconnected begun lost";
    let journal = "begin 1 7 1.1\nbegin 1 8 2.1\nbegin 1 8 1.2\nbegin 1 9 1.3\nend 1 9 1.3\n";
    let checked = |lines: &str, journal: &str| {
        let lines: Vec<_> = lines.lines().map(Line::parse).collect();
        check(&lines, journal, false).map(|failed| failed.len())
    };
    let good = format!("{sent}\n{ends}");
    assert_eq!(checked(&good, journal), Ok(1));
    let broken = [
        (good.replace("sent 1 7 once", ""), "never sent"),
        (format!("{good}\nsent 1 7 once"), "sent twice"),
        (format!("{good}\nanswered 3 7 here 1.1"), "2 outcomes"),
        (format!("{good}\nsent 1 10 once"), "0 outcomes"),
        (good.replace("answered 3 8 here 1.2", "failed 3 8 Closed begun no"), "sent again"),
        (good.replace("9 Disconnected begun", "9 Disconnected unbegun"), "said to be unbegun"),
        (good.replace("9 Disconnected begun", "9 Disconnected unknown"), "seen begun"),
        (good.replace("here 1.1", "here 1.9"), "1.9, of"),
        (format!("{good}\nwrong 4 chunk 3 as chunk 2"), "wrong"),
    ];
    for (lines, what) in broken {
        let lines = lines.replace("\n\n", "\n");
        let error = checked(lines.trim_start(), journal).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    let twice = format!("{journal}begin 4 7 3.1\n");
    assert!(checked(&good, &twice).unwrap_err().contains("begun more than once"));
    let often: String = (2..10).map(|it| format!("begin 1 8 3.{it}\n")).collect();
    let often = format!("{journal}{often}");
    assert!(checked(&good, &often).unwrap_err().contains("begun too often"));
    let same = (good.replace("here 1.2", "here 1.1"), journal.replace("8 1.2", "8 1.1"));
    assert!(checked(&same.0, &same.1).unwrap_err().contains("delivered twice"));
}
