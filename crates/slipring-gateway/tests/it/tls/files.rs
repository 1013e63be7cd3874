//! Files that cannot be used: each error names the file and the reason.

use std::fs;

use slipring_gateway::tls::{
    ClientName, ClientTls, ExpectedName, IdentityProblem, PemFiles, ServerTls,
};

use crate::tls::connections::Scene;

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

#[test]
fn a_directory_is_not_a_file() {
    let scene = Scene::new();
    let directory = scene.directory.path().to_owned();
    let files =
        PemFiles { chain: directory.clone(), key: directory.clone(), authorities: directory };
    let error = ServerTls::new(files, Vec::new()).unwrap_err();
    assert!(matches!(error.problem(), IdentityProblem::Unreadable(_)), "{error}");
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
