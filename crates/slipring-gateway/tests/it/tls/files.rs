//! Files that cannot be used: each error names the file and the reason.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use slipring_gateway::tls::{ClientName, ClientTls, ExpectedName, IdentityProblem, ServerTls};

use crate::tls::connections::{HANG, Scene};

#[test]
fn an_error_names_the_file_and_what_is_wrong_with_it() {
    let scene = Scene::new();
    let issued = scene.authority.server(&["localhost"]);
    let other_key = scene.authority.server(&["localhost"]).key;
    let half = |text: &str| Some(text[..text.len() / 2].to_owned());
    let text = |text: &str| Some(text.to_owned());
    let not_base64 = "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n";
    let not_der = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let two_and_a_half =
        issued.chain.clone() + &scene.authority.pem() + &half(&issued.chain).unwrap();
    let not_a_key = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    // Which file, its contents or none, and what the error says.
    let cases = [
        (0, None, "cannot read it: No such file"),
        (1, None, "cannot read it: No such file"),
        (2, None, "cannot read it: No such file"),
        (0, text(""), "there is no certificate in it"),
        (0, text(&issued.key), "there is no certificate in it"),
        (0, half(&issued.chain), "half written"),
        (0, Some(two_and_a_half), "half written"),
        (0, text(not_base64), "damaged"),
        (0, text(not_der), "it cannot be used"),
        (0, Some(" ".repeat((1 << 20) + 1)), "longer than 1048576 bytes"),
        (1, text(""), "there is no private key in it"),
        (1, text(&issued.chain), "there is no private key in it"),
        (1, text(encrypted), "there is no private key in it"),
        (1, half(&issued.key), "half written"),
        (1, text(not_a_key), "it cannot be used"),
        (1, Some(other_key), "the key does not belong to the certificate in"),
        (2, text(""), "there is no certificate in it"),
        (2, text(not_der), "it cannot be used"),
    ];
    for (index, contents, says) in cases {
        let files = scene.directory.write("server", &issued, &scene.authority);
        let path = [&files.chain, &files.key, &files.authorities][index];
        match contents {
            Some(contents) => fs::write(path, contents).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let server = ServerTls::new(files.clone(), Vec::new()).unwrap_err();
        let client = ClientTls::new(files.clone()).unwrap_err();
        for error in [server, client] {
            assert_eq!(error.file(), path, "{error}");
            let shown = error.to_string();
            assert!(shown.starts_with(path.to_str().unwrap()), "{shown}");
            assert!(shown.contains(says), "{says:?} is not in {shown:?}");
        }
    }
}

/// What can be in the place of a file by mistake. A read of some of them would never end.
const NO_FILES: [fn(&Path); 3] = [
    |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
    |path| fs::create_dir(path).unwrap(),
    |path| symlink("/dev/zero", path).unwrap(),
];

/// Puts something else in the place of a file.
fn replace(path: &Path, make: fn(&Path)) {
    fs::remove_file(path).unwrap();
    make(path);
}

/// Runs this on a thread of its own, since it may hang.
fn within_a_minute<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, has_done) = mpsc::channel();
    std::thread::spawn(move || done.send(run()));
    has_done.recv_timeout(HANG).expect("it hangs, or has panicked")
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    for make in NO_FILES {
        for index in 0..3 {
            let scene = Scene::new();
            let issued = scene.authority.server(&["localhost"]);
            let files = scene.directory.write("server", &issued, &scene.authority);
            let path = [&files.chain, &files.key, &files.authorities][index].clone();
            replace(&path, make);
            let tls = within_a_minute(move || ServerTls::new(files, Vec::new()));
            let error = tls.unwrap_err();
            assert_eq!(error.file(), path);
            assert!(error.to_string().ends_with("it is no regular file"), "{error}");
        }
    }
}

#[test]
fn what_is_no_file_holds_no_reload_up() {
    for make in NO_FILES {
        let scene = Scene::new();
        let issued = scene.authority.server(&["localhost"]);
        let files = scene.directory.write("server", &issued, &scene.authority);
        let (tls, key) = (ServerTls::new(files.clone(), Vec::new()).unwrap(), files.key);
        replace(&key, make);
        let looked = tls.clone();
        let error = within_a_minute(move || looked.reload()).unwrap_err();
        assert!(matches!(error.problem(), IdentityProblem::Unreadable(_)), "{error}");
        assert_eq!(tls.last_error().unwrap().to_string(), error.to_string());
        fs::remove_file(&key).or_else(|_| fs::remove_dir(&key)).unwrap();
        fs::write(&key, &issued.key).unwrap();
        tls.reload().unwrap();
        assert!(tls.last_error().is_none());
    }
}

#[test]
fn a_huge_file_is_not_read_to_its_end() {
    let scene = Scene::new();
    let issued = scene.authority.server(&["localhost"]);
    let files = scene.directory.write("server", &issued, &scene.authority);
    // It has no blocks on the disk.
    File::create(&files.chain).unwrap().set_len(1 << 40).unwrap();
    let error = ServerTls::new(files, Vec::new()).unwrap_err();
    assert!(matches!(error.problem(), IdentityProblem::TooLong(_)), "{error}");
}

#[test]
fn the_key_is_not_shown() {
    let scene = Scene::new();
    let shown = format!("{:?}{:?}", scene.server_tls(&[]), scene.client(&["a.example"]));
    assert!(shown.contains("server-key.pem") && !shown.contains("PRIVATE"), "{shown}");
}

#[test]
fn a_text_that_is_no_name_is_refused() {
    for text in ["", "a b", "host:80", "http//x"] {
        let error = ClientName::new(text).unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        ExpectedName::new(text).unwrap_err();
    }
    ExpectedName::new("spiffe://example/a").unwrap_err();
}
