//! Certificates whose dates come and go, at times that the tests say, and files that are seen half replaced.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};

use super::*;
use crate::tls::identity::IdentityProblem;

const DAY: u64 = 24 * 60 * 60;

/// Days after the year 2000.
fn day(day: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(946_684_800 + day * DAY))
}

/// An authority, and the files of one side.
struct Scene {
    directory: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Scene {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "slipring-reload-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let authority = CertificateParams::default();
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap());
        let scene = Self { directory, authority: authority.unwrap() };
        fs::write(scene.files().authorities, scene.authority.pem()).unwrap();
        scene
    }

    fn files(&self) -> PemFiles {
        let path = |name| self.directory.join(name);
        PemFiles { chain: path("chain"), key: path("key"), authorities: path("authorities") }
    }

    /// Writes a certificate that is valid from the one day until the other. Returns it.
    fn issue(&self, from: u32, until: u32) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let date =
            |day: u32| rcgen::date_time_ymd(2000, 1, 1) + Duration::from_secs(u64::from(day) * DAY);
        (params.not_before, params.not_after) = (date(from), date(until));
        let key = KeyPair::generate().unwrap();
        let issued = params.signed_by(&key, &self.authority).unwrap();
        fs::write(self.files().chain, issued.pem()).unwrap();
        fs::write(self.files().key, key.serialize_pem()).unwrap();
        issued.der().to_vec()
    }

    /// A certificate that is valid until this day, and in use on the tenth.
    fn in_use_until(day_of_end: u32) -> (Self, Vec<u8>, Reload<Identity>) {
        let scene = Self::new();
        let certificate = scene.issue(0, day_of_end);
        let reload = scene.reload(day(10));
        (scene, certificate, reload)
    }

    fn reload(&self, now: UnixTime) -> Reload<Identity> {
        Reload::new_at(self.files(), Ok, now).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// Which certificate is used, and what is wrong with the files.
type State = (Vec<u8>, Option<&'static str>);

fn state(reload: &Reload<Identity>) -> State {
    let problem = reload.last_error().map(|error| match error.problem() {
        IdentityProblem::Expired(_) => "expired",
        IdentityProblem::NotYetValid(_) => "not yet",
        _ => "other",
    });
    (reload.current().certificate.cert[0].to_vec(), problem)
}

/// The state after a look on this day that has found something wrong.
fn look_in_vain(reload: &Reload<Identity>, on: u64) -> State {
    reload.look_at(day(on)).unwrap_err();
    state(reload)
}

#[test]
fn an_expired_certificate_is_used_only_if_the_old_one_has_expired_too() {
    let (scene, old, reload) = Scene::in_use_until(20);
    let expired = scene.issue(0, 9);
    for _ in 0..2 {
        assert_eq!(look_in_vain(&reload, 10), (old.clone(), Some("expired")));
    }
    // Nothing is any better, and the files are what was asked for.
    assert_eq!(look_in_vain(&reload, 21), (expired, Some("expired")));
    let new = scene.issue(20, 40);
    assert!(reload.look_at(day(22)).unwrap());
    assert_eq!(state(&reload), (new, None));
}

#[test]
fn a_certificate_of_later_is_used_once_it_is_valid() {
    let (scene, old, reload) = Scene::in_use_until(40);
    let new = scene.issue(20, 40);
    assert_eq!(look_in_vain(&reload, 10), (old, Some("not yet")));
    // The files have not changed.
    assert!(reload.look_at(day(20)).unwrap());
    assert_eq!(state(&reload), (new, None));
    assert!(!reload.look_at(day(20)).unwrap());
    // The clock is set back, and forward again.
    assert_eq!(look_in_vain(&reload, 10).1, Some("not yet"));
    assert!(!reload.look_at(day(20)).unwrap());
    assert_eq!(state(&reload).1, None);
}

#[test]
fn a_certificate_that_expires_in_use_is_told_of() {
    let (scene, only, reload) = Scene::in_use_until(20);
    assert!(!reload.look_at(day(20)).unwrap());
    assert_eq!(look_in_vain(&reload, 21), (only.clone(), Some("expired")));
    // So is one that has expired at the start: the clock may be wrong.
    let reload = scene.reload(day(21));
    assert_eq!(state(&reload), (only, Some("expired")));
}

#[test]
fn an_authority_goes_although_the_new_certificate_has_expired() {
    let (scene, old, reload) = Scene::in_use_until(20);
    let before = reload.current();
    scene.issue(0, 9);
    fs::write(scene.files().authorities, Scene::new().authority.pem()).unwrap();
    reload.look_at(day(10)).unwrap_err();
    let now = reload.current();
    assert_eq!(state(&reload).0, old);
    assert_ne!(now.authorities.roots, before.authorities.roots);
}

#[test]
fn files_of_two_sets_are_not_looked_at_before_they_have_settled() {
    let (scene, old, reload) = Scene::in_use_until(20);
    let look = |before: Option<&Reading>| reload.look_if_settled(before, day(10));
    assert!(look(None).is_none(), "nothing has changed");
    let old_key = fs::read(scene.files().key).unwrap();
    let new = scene.issue(0, 30);
    let new_key = fs::read(scene.files().key).unwrap();
    fs::write(scene.files().key, old_key).unwrap();
    let half = look(None).unwrap();
    fs::write(scene.files().key, new_key).unwrap();
    let whole = look(Some(&half)).unwrap();
    assert_eq!(state(&reload), (old, None));
    assert!(look(Some(&whole)).is_none());
    assert_eq!(state(&reload), (new.clone(), None));
    // A file that is missing for a moment is no problem either, and one that stays away is.
    fs::remove_file(scene.files().key).unwrap();
    let missing = look(None).unwrap();
    assert_eq!(state(&reload).1, None);
    assert!(look(Some(&missing)).is_none());
    assert_eq!(state(&reload), (new, Some("other")));
}
