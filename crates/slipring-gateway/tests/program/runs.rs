//! What the program does from its start to its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use slipring::backend::{Backend, BackendRequest, TraceContext};
use slipring::{ErrorKind, Kind};
use slipring_gateway::Limits;
use slipring_gateway::client::Connection;
use slipring_gateway::tls::{ClientTls, PemFiles};

use super::gateway::{Dir, Gateway, PROGRAM, run, until_exists};
use crate::{CRASH_ONCE, ECHO, LONG, WAIT};

pub(crate) fn a_role_of_another_machine_is_called() {
    let mut gateway = Gateway::start(&["--workers", "2"]);
    assert_eq!(gateway.call(ECHO, "hello").unwrap().text().unwrap(), "hello");
    assert_eq!(gateway.role.gateways()[0].places, 2);
    gateway.signal("INT");
    assert_eq!(gateway.end(), (Some(0), String::new()));
    // Its port is free again at once.
    drop(TcpListener::bind(gateway.address).unwrap());
}

pub(crate) fn a_kind_that_may_run_twice_is_sent_again() {
    let by_number = format!("crash={}", CRASH_ONCE.code());
    let options = ["--idempotent", "crash", "--kind", &by_number];
    let (dir, gateway) = (Dir::new("twice"), Gateway::start(&options));
    let reply = gateway.call(CRASH_ONCE, &dir.file("numbered")).unwrap();
    assert_eq!(reply.text().unwrap(), "the second time");
    let options = ["--idempotent", "crash-once"];
    let logs = ["--log-dir", dir.path()];
    let crashes = dir.file("crashes");
    let reports = ["--crash-reports", &crashes];
    let gateway = Gateway::start(&[&options[..], &logs, &reports].concat());
    let reply = gateway.call(CRASH_ONCE, &dir.file("again")).unwrap();
    assert_eq!(reply.text().unwrap(), "the second time");
    let is_report = |file: std::fs::DirEntry| {
        let name = file.file_name().into_string().unwrap();
        name.starts_with("slipring-crash-") && name.ends_with(".json")
    };
    let has_report = || std::fs::read_dir(&crashes).is_ok_and(|all| all.flatten().any(is_report));
    while !has_report() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut gateway = Gateway::start(&logs);
    let error = gateway.call(CRASH_ONCE, &dir.file("once")).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::PeerDied, Some(true)), "{error}");
    assert!(error.death().unwrap().log_path().unwrap().starts_with(dir.path()));
    gateway.signal("TERM");
    let (code, text) = gateway.end();
    let died = text.lines().find(|line| line.contains("died: killed by signal SIGABRT"));
    assert!(code == Some(0) && died.is_some_and(|line| line.ends_with(".log")), "{text}");
}

pub(crate) fn without_prefetch_requests_wait_for_any_worker() {
    let gateway = Gateway::start(&["--workers", "2", "--prefetch", "0"]);
    let dir = Dir::new("prefetch");
    let busy = |name: &str| {
        let [begun, over] = ["begun", "over"].map(|what| dir.file(&format!("{name}-{what}")));
        let reply = gateway.submit(WAIT, &format!("{begun}\n{over}"));
        until_exists(&begun);
        (reply, over)
    };
    let [(first, over), _second] = ["first", "second"].map(busy);
    // Otherwise one of them lies ready for the second worker, which stays busy.
    let both = [(); 2].map(|()| gateway.submit(ECHO, "echo"));
    std::fs::write(over, "").unwrap();
    assert_eq!(gateway.wait(first).unwrap().text().unwrap(), "waited");
    for reply in both {
        assert_eq!(gateway.wait(reply).unwrap().text().unwrap(), "echo");
    }
}

pub(crate) fn sigterm_finishes_requests_and_ends_well() {
    let (mut gateway, dir) = (Gateway::start(&[]), Dir::new("sigterm"));
    let (begun, over) = (dir.file("begun"), dir.file("over"));
    let reply = gateway.submit(WAIT, &format!("{begun}\n{over}"));
    until_exists(&begun);
    gateway.signal("TERM");
    // Connections to it are not refused, but no request is taken.
    while gateway.role.gateways()[0].state == slipring_gateway::GatewayState::Ready {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(gateway.process.try_wait().unwrap().is_none(), "it has a request");
    std::fs::write(&over, "").unwrap();
    assert_eq!(gateway.wait(reply).unwrap().text().unwrap(), "waited");
    let (code, text) = gateway.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("SIGTERM: finishing requests: 1"), "{text}");
}

pub(crate) fn a_second_signal_ends_at_once() {
    let (mut gateway, dir) = (Gateway::start(&[]), Dir::new("second"));
    let (begun, over) = (dir.file("begun"), dir.file("over"));
    let reply = gateway.submit(WAIT, &format!("{begun}\n{over}"));
    until_exists(&begun);
    // Those that come at once are the same wish.
    (0..2).for_each(|_| gateway.signal("TERM"));
    while gateway.role.gateways()[0].state == slipring_gateway::GatewayState::Ready {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(600));
    assert!(gateway.process.try_wait().unwrap().is_none(), "it has a request");
    gateway.signal("INT");
    let (code, text) = gateway.end();
    assert_eq!(code, Some(130), "{text}");
    assert!(text.contains("requests that were not finished: 1"), "{text}");
    let error = gateway.wait(reply).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Disconnected, Some(true)), "{error}");
}

pub(crate) fn a_drain_that_takes_too_long_is_a_failure() {
    let (mut gateway, dir) = (Gateway::start(&["--drain-timeout", "0.05"]), Dir::new("long"));
    let (begun, over) = (dir.file("begun"), dir.file("over"));
    let reply = gateway.submit(WAIT, &format!("{begun}\n{over}"));
    until_exists(&begun);
    gateway.signal("TERM");
    let (code, text) = gateway.end();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("--drain-timeout: 1"), "{text}");
    assert!(gateway.wait(reply).is_err());
}

pub(crate) fn a_used_port_is_a_clear_error() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (code, text) = fails(&["--role", "echo", "--listen", &address]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("--listen {address}: another program listens there")), "{text}");
    let page = ["--role", "echo", "--listen", "127.0.0.1:0", "--metrics", &address];
    let (code, text) = fails(&page);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&format!("--metrics {address}: another program")), "{text}");
}

pub(crate) fn bad_options_are_errors_of_one_line() {
    let role = ["--role", "echo"];
    let same = format!("a={}", Kind::named("b").code());
    for (args, said) in [
        (&[][..], "--role <NAME> is missing"),
        (&["--workers", "0"], "--workers takes a whole number from 1 to 4096, not '0'"),
        (&["--listen", "here"], "--listen takes an IP address and a port"),
        (&["--listen", "0.0.0.0:0"], "0.0.0.0:0 is not the loopback interface"),
        (&["--cert", "a.pem"], "--key"),
        (&["--allow-client", "host"], "--allow-client is of use only with --cert"),
        (&["--cert-name", "host"], "--make-certs"),
        (&["--idempotent", "-"], "--idempotent takes the name or the number"),
        (&["--idempotent", "0"], "0 is no number of a kind of request"),
        (&["--kind", "a b=c"], "--kind takes the name of a kind, or NAME=NUMBER, not 'a b=c'"),
        (&["--kind", "a=31"], "--kind: 31 is no number of a kind of request"),
        (&["--idempotent", "b", "--kind", &same], "the kinds 'b' and 'a' have the same number"),
        (&["--drain-timeout", "soon"], "--drain-timeout takes seconds"),
        (&["--max-message", "1"], "--max-message takes a whole number from 1048576"),
        (&["--wokers", "1"], "did you mean '--workers'?"),
        (&["worker"], "the worker's program follows after --"),
        // What the pool says is known once the port is taken: not the usual one, another program may have it.
        (&["--listen", "127.0.0.1:0", "--role", "a b"], "a name must be"),
    ] {
        let all = if args.is_empty() { Vec::new() } else { [&role[..], args].concat() };
        let (code, text) = fails(&all);
        assert_eq!((code, text.lines().count()), (2, 1), "{args:?}: {text}");
        assert!(text.starts_with("slipring-gateway: ") && text.contains(said), "{args:?}: {text}");
        assert!(text.contains("--help"), "{args:?}: {text}");
    }
    let (code, text) = fails(&["--role", "echo", "--"]);
    assert!(code == 2 && text.contains("the worker's program is missing"), "{text}");
}

pub(crate) fn workers_that_cannot_start_end_the_program() {
    let dir = Dir::new("no-worker");
    let base = ["--role", "echo", "--listen", "127.0.0.1:0", "--log-dir", dir.path()];
    let (code, text) = fails(&[&base[..], &["--", "/no/such/worker"]].concat());
    assert!(code == 3 && text.contains("/no/such/worker: No such file"), "{code} {text}");
    let without_log = ["--role", "echo", "--listen", "127.0.0.1:0", "--", "/bin/false"];
    let (code, text) = fails(&without_log);
    assert!(code == 3 && text.contains("it has no log: --log-dir keeps one"), "{code} {text}");
    let script = ["--", "/bin/sh", "-c", "echo no model; exit 7"];
    let (code, text) = fails(&[&base[..], &script].concat());
    assert!(code == 3 && text.contains("| no model"), "{code} {text}");
    let mut refuses = base;
    refuses[1] = "refuses";
    let (code, text) = fails(&refuses);
    assert!(code == 3 && text.contains("there is no model"), "{code} {text}");
}

pub(crate) fn a_worker_that_does_not_start_at_first_is_started_again() {
    let dir = Dir::new("fails-once");
    // The first one fails, and the other one needs longer.
    let script = "mkdir \"$0\" 2>/dev/null && exit 1; sleep 0.5; exec \"$1\"";
    let worker = std::env::current_exe().unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["--role", "echo", "--workers", "2", "--listen", "127.0.0.1:0", "--"]);
    command.args(["/bin/sh", "-c", script, &dir.file("failed")]).arg(worker);
    let mut gateway = Gateway::run(&mut command, "echo");
    assert_eq!(gateway.call(ECHO, "hello").unwrap().text().unwrap(), "hello");
    gateway.signal("TERM");
    let (code, text) = gateway.end();
    assert!(code == Some(0) && text.contains("a worker does not start"), "{code:?} {text}");
}

pub(crate) fn made_certificates_let_their_caller_in_and_no_other() {
    let dir = Dir::new("certs");
    let made = run(&["--make-certs", dir.path()]);
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success() && said.starts_with("for the gateway: --cert "), "{said}");
    let (code, text) = fails(&["--make-certs", dir.path()]);
    assert!(code == 1 && text.contains("--make-certs: "), "nothing is written over: {text}");
    let [chain, key, authorities] =
        ["client.pem", "client-key.pem", "ca.pem"].map(|name| dir.file(name).into());
    let options = said.lines().next().unwrap().strip_prefix("for the gateway: ").unwrap();
    let options: Vec<_> = options.split(' ').collect();
    let allowed = [&options[..], &["--allow-client", "slipring-host"]].concat();
    let gateway = Gateway::start(&allowed);
    let tls = ClientTls::new(PemFiles { chain, key, authorities }).unwrap();
    let secured = gateway.connect(|role| role.tls(tls.clone()));
    assert_eq!(gateway.call_by(&secured, ECHO, "hello").unwrap().text().unwrap(), "hello");
    // The role of `Gateway::start` speaks plain text.
    let plain = BackendRequest::new(ECHO, "hello");
    let error = gateway.wait(gateway.role.call(plain, Duration::from_millis(300))).unwrap_err();
    assert_eq!(error.was_begun(), Some(false), "{error}");

    let refusing = Gateway::start(&[&options[..], &["--allow-client", "another"]].concat());
    let refused = refusing.connect(|role| role.tls(tls));
    let request = BackendRequest::new(ECHO, "hello");
    let error = refusing.wait(refused.call(request, Duration::from_millis(300))).unwrap_err();
    assert_eq!(error.was_begun(), Some(false), "{error}");

    let mut missing = options.clone();
    missing[1] = "/no/such.pem";
    let (code, text) = fails(&[&["--role", "echo"], &missing[..]].concat());
    assert!(code == 1 && text.contains("/no/such.pem: cannot read it"), "{text}");
}

pub(crate) fn certificates_that_cannot_be_used_are_told_of() {
    let dir = Dir::new("bad-certs");
    assert!(run(&["--make-certs", dir.path()]).status.success());
    let [cert, key, ca] = ["server.pem", "server-key.pem", "ca.pem"].map(|name| dir.file(name));
    let mut gateway = Gateway::start(&["--cert", &cert, "--key", &key, "--client-ca", &ca]);
    let lines = BufReader::new(gateway.process.stderr.take().unwrap()).lines();
    let (send, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(|line| send.send(line.ok()?).ok()).count());
    let next = || said.recv_timeout(LONG).expect("nothing is said");
    let good = std::fs::read(&cert).unwrap();
    std::fs::write(&cert, "no certificate").unwrap();
    let line = next();
    let problem = "server.pem: there is no certificate in it";
    assert!(line.ends_with(problem), "{line}");
    std::fs::write(&cert, good).unwrap();
    assert!(next().ends_with("can be used again"));
}

pub(crate) fn metrics_and_requests_are_shown() {
    let options = ["--metrics", "0", "--log-requests", "--idempotent", "echo"];
    let names = ["--kind", "no-such-kind", "--kind", "a number=256"];
    let mut gateway = Gateway::start(&[&options[..], &names].concat());
    let mut said = BufReader::new(gateway.process.stderr.take().unwrap()).lines();
    let mut line = || said.next().unwrap().unwrap();
    // What is logged of the workers may come before.
    let start = "slipring-gateway: metrics at http://127.0.0.1:";
    let page = std::iter::repeat_with(&mut line).find(|line| line.starts_with(start)).unwrap();
    let address = page.strip_prefix(start).unwrap();
    let port = address.strip_suffix("/metrics").unwrap().parse().unwrap();
    let get = |request: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let trace = TraceContext::new([1; 16], [2; 8], 1).unwrap();
    let request = BackendRequest::new(ECHO, "hello").trace(trace);
    gateway.wait(gateway.role.call(request, crate::LONG)).unwrap();
    for kind in [Kind::named("no-such-kind"), Kind::app(0)] {
        assert_eq!(gateway.call(kind, "").unwrap_err().kind(), ErrorKind::HandlerFailed);
    }
    let logged = std::iter::repeat_with(&mut line).find(|line| line.contains("answered")).unwrap();
    let fields = [r#"role="echo""#, r#"outcome="ok""#, "trace_id=0101", "parent_id=0202"];
    assert!(fields.iter().all(|field| logged.contains(field)), "{logged}");

    let text = get("GET /metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(text.contains("content-type: application/openmetrics-text"), "{text}");
    for line in [
        r#"slipring_gateway_requests_total{role="echo",outcome="ok"} 1"#,
        r#"slipring_worker_starts_total{role="echo"} 1"#,
        r#"slipring_requests_total{role="echo",kind="echo",outcome="ok"} 1"#,
        r#"slipring_requests_total{role="echo",kind="no-such-kind",outcome="handler_failed"} 1"#,
        r#"slipring_requests_total{role="echo",kind="a number",outcome="handler_failed"} 1"#,
        "# EOF",
    ] {
        assert!(text.lines().any(|each| each == line), "{line}: {text}");
    }
    assert!(get("POST /metrics").starts_with("HTTP/1.1 405"));
    assert!(get("GET /").starts_with("HTTP/1.1 404"));
    let slow: Vec<_> = (0..7).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert!(get("GET /metrics").starts_with("HTTP/1.1 200"), "there is a place beside slow ones");
    drop(slow);
    let (code, text) = fails(&["--role", "echo", "--metrics", "here"]);
    assert!(code == 2 && text.contains("--metrics takes an IP address"), "{text}");
}

pub(crate) fn help_names_every_option() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for option in [
        "--role",
        "--workers",
        "--listen",
        "--drain-timeout",
        "--idempotent",
        "--kind",
        "Exit codes",
    ] {
        assert!(help.contains(option), "{option}: {help}");
    }
    let longest = help.lines().map(str::len).max();
    assert!(longest <= Some(80), "no line is broken by the terminal: {help}");
    for example in help.lines().filter(|line| line.starts_with("  slipring gateway --role")) {
        assert!(example.ends_with('\\') || example.contains(" -- ./embedder"), "{help}");
    }
}

fn fails(args: &[&str]) -> (i32, String) {
    let output = run(args);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

pub(crate) fn callers_beyond_the_descriptors_keep_no_other_out() {
    // Fewer than the connections that it takes by default.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 160; exec \"$0\" \"$@\"", PROGRAM, "--role", "echo"]);
    limited.args(["--listen", "127.0.0.1:0", "--"]).arg(std::env::current_exe().unwrap());
    let gateway = Gateway::run(&mut limited, "echo");
    let connect =
        || Connection::connect(gateway.address, Limits::default(), Duration::from_secs(2));
    // They do nothing, and say that they are there when they are asked.
    let mut held = Vec::new();
    for _ in 0..10 {
        let some: Vec<_> = (0..20).map(|_| gateway.spawn(connect())).collect();
        held.extend(some.into_iter().map(|one| gateway.wait(one).unwrap()));
    }
    let late = gateway.connect(|role| role);
    let reply = gateway.call_by(&late, ECHO, "late").unwrap();
    assert_eq!(reply.text().unwrap(), "late");
    drop(held);
}
