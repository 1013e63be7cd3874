//! Mutual TLS: the files of the command line, and certificates for trying it.

use std::path::Path;
use std::time::Duration;

use slipring_gateway::tls::{ClientName, MakeCerts, PemFiles, ServerTls};

use crate::args::Options;
use crate::error::{Failure, print, say};

/// How often it is looked whether the files can be used. The gateway reads them as often.
const LOOK: Duration = Duration::from_secs(1);

/// For how many days the certificates for trying it are valid.
const DAYS: u32 = 30;

/// Reads the certificates; `None` for plain text.
pub(crate) fn of(options: &Options) -> Result<Option<ServerTls>, Failure> {
    let (Some(chain), Some(key), Some(authorities)) =
        (&options.cert, &options.key, &options.client_ca)
    else {
        return Ok(None);
    };
    let allowed = options.allow_client.iter().map(|name| ClientName::new(name));
    let allowed = allowed.collect::<Result<Vec<_>, _>>();
    let allowed = allowed.map_err(|e| Failure::usage(format!("--allow-client: {e}")))?;
    let files =
        PemFiles { chain: chain.clone(), key: key.clone(), authorities: authorities.clone() };
    let tls = ServerTls::new(files, allowed);
    tls.map(Some).map_err(|error| Failure::other(error.to_string()))
}

/// Says what is wrong with the files, whenever that changes.
pub(crate) async fn tell(tls: ServerTls) {
    let mut told = None;
    loop {
        let problem = tls.last_error().map(|error| error.to_string());
        if problem != told {
            match &problem {
                Some(problem) => say(problem),
                None => say("the files of certificates can be used again"),
            }
            told = problem;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes certificates and keys, and says what they are for.
pub(crate) fn make(options: &Options, directory: &Path) -> Result<(), Failure> {
    let names = |given: &[String], otherwise: &[&str]| match given {
        [] => otherwise.iter().map(|name| (*name).to_owned()).collect(),
        given => given.to_vec(),
    };
    let certs = MakeCerts {
        server_names: names(&options.cert_name, &["localhost", "127.0.0.1", "::1"]),
        client_names: names(&options.allow_client, &["slipring-host"]),
        days: DAYS,
    };
    let made = certs.write(directory);
    let made = made.map_err(|error| Failure::other(format!("--make-certs: {error}")))?;
    let (server, client) = (made.server, made.client);
    let shown = |path: &Path| path.display().to_string();
    print(&format!(
        "for the gateway: --cert {} --key {} --client-ca {}\nfor callers: {} {} {}\n",
        shown(&server.chain),
        shown(&server.key),
        shown(&server.authorities),
        shown(&client.chain),
        shown(&client.key),
        shown(&client.authorities),
    ));
    Ok(())
}
