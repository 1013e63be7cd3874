//! Certificates for trying it out.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use slipring_gateway::tls::{ClientTls, MakeCerts, MakeCertsError, ServerTls};

use crate::tls::certs::Directory;
use crate::tls::connections::{Server, exchange};

fn wanted() -> MakeCerts {
    MakeCerts {
        server_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        client_names: vec!["a.example".to_owned(), "spiffe://example/a".to_owned()],
        days: 30,
    }
}

#[tokio::test]
async fn made_certificates_work_with_each_other_only() {
    let directory = Directory::new();
    let path = directory.path().join("new").join("certs");
    let made = wanted().write(&path).unwrap();
    let server_tls = ServerTls::new(made.server.clone(), Vec::new()).unwrap();
    let server = Server::start(server_tls).await;
    let client = ClientTls::new(made.client).unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let mut stream = server.connect(&client, name).await.unwrap();
        exchange(&mut stream).await.unwrap();
    }
    server.connect(&client, "other.example").await.unwrap_err();

    // A server's certificate is not good for a client.
    let wrong = ClientTls::new(made.server).unwrap();
    let mut stream = server.connect(&wrong, "localhost").await.unwrap();
    exchange(&mut stream).await.unwrap_err();

    let others = wanted().write(&directory.path().join("others")).unwrap();
    let other = ClientTls::new(others.client).unwrap();
    let error = server.connect(&other, "localhost").await.unwrap_err();
    assert!(error.to_string().contains("no known authority"), "{error}");
}

#[test]
fn only_the_user_can_read_made_files() {
    let directory = Directory::new();
    let path = directory.path().join("certs");
    wanted().write(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    // The authority's key is not among them.
    assert_eq!(names, ["ca.pem", "client-key.pem", "client.pem", "server-key.pem", "server.pem"]);
}

#[test]
fn no_file_is_written_over() {
    for there in ["ca.pem", "server-key.pem", "client-key.pem"] {
        let directory = Directory::new();
        let path = directory.path().join(there);
        fs::write(&path, "mine").unwrap();
        let error = wanted().write(directory.path()).unwrap_err();
        assert!(matches!(&error, MakeCertsError::Exists(at) if *at == path), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        // What was written before is gone.
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

#[test]
fn bad_names_are_refused_before_anything_is_written() {
    let directory = Directory::new();
    let path = directory.path().join("certs");
    let mut bad = wanted();
    bad.server_names.push("no name".to_owned());
    let error = bad.write(&path).unwrap_err();
    assert!(error.to_string().contains("\"no name\""), "{error}");
    let mut none = wanted();
    none.client_names.clear();
    assert!(matches!(none.write(&path), Err(MakeCertsError::NoNames)));
    assert!(!path.exists());
}
