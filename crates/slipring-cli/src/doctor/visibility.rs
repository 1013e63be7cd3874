//! What `top` and its likes can see of other processes.

use serde_json::json;

use super::files::Files;
use super::item::{Item, State};

pub(super) fn items(files: &Files<'_>) -> Vec<Item> {
    vec![proc(files), hidepid(files), yama(files)]
}

fn proc(files: &Files<'_>) -> Item {
    const NAME: &str = "visibility.proc";
    match files.text("/proc/self/stat") {
        Some(_) => Item::ok(NAME, "mounted", "Status pages of hosts are found through /proc."),
        None => Item::ok(NAME, "not mounted", "").but(
            State::Warn,
            "top and stat find no host, a program cannot start itself as its worker, and much of this \
             report is not known.",
            "Mount it: mount -t proc proc /proc.",
        ),
    }
}

fn hidepid(files: &Files<'_>) -> Item {
    const NAME: &str = "visibility.hidepid";
    let Some(mounts) = files.text("/proc/self/mountinfo") else {
        return Item::unknown(
            NAME,
            "/proc/self/mountinfo is not there",
            "Processes may be hidden.",
        );
    };
    let hidden = hidden(&mounts);
    let item = Item::ok(NAME, hidden.clone(), "").with(json!({ "hidepid": hidden }));
    match hidden.as_str() {
        "0" | "off" => Item { meaning: "No process is hidden.".into(), ..item },
        "4" | "ptraceable" => item.but(
            State::Note,
            "Only processes that may be traced are shown: hosts that are started elsewhere may be missing \
             in top.",
            "Run top as the user of the hosts, with their capabilities.",
        ),
        _ => Item {
            meaning: "Processes of other users are hidden; their hosts could not be read anyway.".into(),
            ..item
        },
    }
}

/// The value of the option of the last mount at `/proc`, `0` without one.
fn hidden(mountinfo: &str) -> String {
    let is_proc = |line: &&str| line.split(' ').nth(4) == Some("/proc");
    let line = mountinfo.lines().rfind(is_proc).unwrap_or_default();
    let options = line.split([' ', ',']);
    let value = options.filter_map(|option| option.strip_prefix("hidepid=")).next_back();
    value.unwrap_or("0").to_owned()
}

fn yama(files: &Files<'_>) -> Item {
    const NAME: &str = "visibility.yama";
    let needs = "Status pages are read without a right to trace.";
    match files.number("/proc/sys/kernel/yama/ptrace_scope") {
        Some(0) => Item::ok(NAME, "0", needs).with(json!({ "ptrace_scope": 0 })),
        Some(scope) => {
            let meaning = format!("Tracing is restricted. {needs} Debuggers of workers need more.");
            Item::ok(NAME, scope.to_string(), meaning).with(json!({ "ptrace_scope": scope }))
        }
        None => Item::ok(NAME, "not there", needs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_of_proc_tells_what_is_hidden() {
        let line =
            |options: &str| format!("22 27 0:21 / /proc rw,relatime - proc proc rw{options}\n");
        for (text, value) in [
            (line(""), "0"),
            (line(",hidepid=2"), "2"),
            (line(",gid=4,hidepid=invisible"), "invisible"),
            (line(",hidepid=2") + &line(""), "0"),
            (line("").replace("/proc ", "/mnt/proc ") + &line(",hidepid=ptraceable"), "ptraceable"),
            (String::new(), "0"),
            ("nonsense\n22 27".to_owned(), "0"),
        ] {
            assert_eq!(hidden(&text), value, "{text}");
        }
        let state = |value: &str| {
            let text = line(&format!(",hidepid={value}"));
            hidepid(&Files::given(&[("/proc/self/mountinfo", &text)])).state
        };
        assert_eq!((state("0"), state("2"), state("4")), (State::Ok, State::Ok, State::Note));
    }

    #[test]
    fn without_proc_that_is_said() {
        let items = items(&Files::given(&[]));
        let states: Vec<_> = items.iter().map(|item| item.state).collect();
        assert_eq!(states, [State::Warn, State::Note, State::Ok]);
    }
}
