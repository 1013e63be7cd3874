//! The status page of this process, as another process would read it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use slipring::Config;
use slipring::pool::{Pool, Role};
use slipring::status_page::{self, ChannelNumbers, Host, Numbers, RoleNumbers, Row};

use crate::common::*;

fn this_host() -> Option<Host> {
    status_page::host(std::process::id()).unwrap()
}

/// Waits until the page has a row that is wanted. It is written once a second while something changes.
fn wait_for<T>(what: &str, mut find: impl FnMut(&Row) -> Option<T> + Send) -> T
where
    T: Send,
{
    within_long(what, || {
        loop {
            let host = this_host();
            if let Some(found) = host.iter().flat_map(|host| &host.rows).find_map(&mut find) {
                return found;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

fn channel_of(row: &Row, pid: u32) -> Option<ChannelNumbers> {
    match row.numbers {
        Numbers::Channel(numbers) if row.pid == Some(pid) => Some(numbers),
        _ => None,
    }
}

fn role_of(row: &Row, name: &str) -> Option<RoleNumbers> {
    match row.numbers {
        Numbers::Role(numbers) if row.role == name => Some(numbers),
        _ => None,
    }
}

#[test]
fn a_channel_is_on_the_page_until_it_is_dropped() {
    let channel = spawn(Config::small());
    let pid = channel.pid();
    (0..3).for_each(|_| assert_usable(&channel));
    let stats = channel.stats();
    let numbers = wait_for("the calls", |row| {
        channel_of(row, pid).filter(|numbers| numbers.completed >= stats.completed)
    });
    assert_eq!((numbers.state, numbers.requests), (1, stats.requests));
    assert_eq!(numbers.bytes_sent, stats.bytes_sent);
    assert_eq!(numbers.request_ring_capacity, channel.config().request_ring().capacity() as u64);

    channel.call(EXIT, &[7], LONG).unwrap_err();
    let (numbers, note, errors) = wait_for("the death", |row| {
        let numbers = channel_of(row, pid).filter(|numbers| numbers.state == 4)?;
        Some((numbers, row.note.clone(), row.errors.clone()))
    });
    assert!(note.contains("exited with code 7"), "{note}");
    assert_eq!(errors, [(slipring::ErrorKind::PeerDied, 1)]);
    assert_eq!(numbers.in_flight, 0);

    drop(channel);
    within_long("the row's end", || {
        let is_there = |host: Host| host.rows.iter().any(|row| channel_of(row, pid).is_some());
        while this_host().is_some_and(is_there) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_role_of_a_pool_is_on_the_page_with_its_requests() {
    let role = Role::new(|_| Ok(small())).max_size(2);
    let pool = Pool::builder().role("on-the-page", role).build().unwrap();
    let handle = pool.role("on-the-page").unwrap();
    (0..5).for_each(|_| drop(handle.call(ECHO, "x", LONG).unwrap()));
    handle.call(FAIL, "x", LONG).unwrap_err();
    let (numbers, queued, served) = wait_for("the requests", |row| {
        let numbers = role_of(row, "on-the-page").filter(|n| n.answered + n.failed >= 6)?;
        Some((numbers, row.first_times, row.second_times))
    });
    assert_eq!((numbers.answered, numbers.failed, numbers.is_ready), (5, 1, 1));
    assert!(numbers.workers >= 1 && numbers.started >= 1);
    assert_eq!((queued.count(), served.count()), (6, 6));
    assert!(served.quantile(0.5).unwrap() <= served.quantile(0.99).unwrap());
    pool.close(LONG).unwrap();
}

/// The descriptor of this process's page.
fn page() -> PathBuf {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
    let is_page = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("slipring-status"))
    };
    links.into_iter().find(is_page).unwrap()
}

#[test]
fn nobody_can_write_the_page() {
    let _channel = spawn(Config::small());
    wait_for("a page", |_| Some(()));
    let mut file = OpenOptions::new().read(true).write(true).open(page()).unwrap();
    assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(libc::EPERM));
    assert!(file.set_len(0).is_err());
    // SAFETY: nothing is mapped if it fails, and what is mapped is not touched.
    #[allow(unsafe_code, reason = "to try")]
    let map = unsafe {
        let (access, fd) = (libc::PROT_WRITE, std::os::fd::AsRawFd::as_raw_fd(&file));
        libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, fd, 0)
    };
    assert_eq!(map, libc::MAP_FAILED);
}

#[test]
fn the_descriptor_in_another_process_makes_that_no_host() {
    let _channel = spawn(Config::small());
    wait_for("a page", |_| Some(()));
    let inherited = Stdio::from(File::open(page()).unwrap());
    let mut child = Command::new("sleep").arg("1000").stdin(inherited).spawn().unwrap();
    assert_eq!(status_page::host(child.id()).unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(status_page::host(child.id()).unwrap(), None, "it has ended");
}

#[test]
fn a_page_of_garbage_is_refused_and_says_why() {
    let program = "import os, sys\n\
        fd = os.memfd_create('slipring-status', os.MFD_ALLOW_SEALING)\n\
        os.write(fd, bytes(range(256)) * 64)\n\
        print('ready', flush=True)\n\
        sys.stdin.read()";
    let mut child = Command::new("python3");
    let child = child.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut ready = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let error = status_page::host(child.id()).unwrap_err();
    assert!(error.to_string().contains("seals"), "{error}");
    let hosts = status_page::hosts().unwrap();
    assert!(hosts.refused.iter().any(|(pid, _)| *pid == child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A host that waits for its standard input, in a process of its own: the test runs itself with it.
fn host_of(name: &str) -> Child {
    let mut host = rerun_command(name);
    host.env_remove("SLIPRING_STATUS_PAGE").stdin(Stdio::piped()).stdout(Stdio::null());
    host.spawn().unwrap()
}

fn wait_for_stdin() {
    let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
}

fn until(what: &str, is_so: impl Fn() -> bool + Send + Sync) {
    within_long(what, || {
        while !is_so() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

fn is_host(pid: u32) -> bool {
    status_page::host(pid).unwrap().is_some()
}

#[test]
fn an_idle_host_sleeps_and_shows_soon_what_ends_that() {
    let name = name_of(an_idle_host_sleeps_and_shows_soon_what_ends_that);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let channel = spawn(Config::small());
    (0..3).for_each(|_| assert_usable(&channel));
    let seen = || this_host().map(|host| (host.heartbeat_period, host.heartbeat_age));
    // A process that is stopped for seconds, as on a busy machine, is tried again.
    for attempt in 1.. {
        // Twice as long after each look that finds nothing new.
        until("a long sleep", || {
            seen().is_some_and(|(period, _)| period >= Duration::from_secs(8))
        });
        let (period, age) = seen().unwrap();
        let next = Instant::now() + (period - age.min(period));
        // A worker that sleeps is woken, for which the thread of the page is woken too.
        assert_usable(&channel);
        let requests = channel.stats().requests;
        wait_for("the call", |row| {
            channel_of(row, channel.pid()).filter(|numbers| numbers.completed >= requests)
        });
        if Instant::now() < next {
            assert!(seen().unwrap().0 <= Duration::from_secs(2), "it looks again soon");
            return;
        }
        assert!(attempt < 3, "what happened was shown by the next look that was due");
    }
}

#[test]
fn a_request_in_flight_shows_its_progress_although_nothing_else_happens() {
    let name = name_of(a_request_in_flight_shows_its_progress_although_nothing_else_happens);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let channel = spawn(Config::small());
    let pending = channel.submit(FOR_EVER, "", LONG).unwrap();
    let busy = |row: &Row| channel_of(row, channel.pid()).filter(|numbers| numbers.begun == 1);
    let first = wait_for("the request", busy);
    assert!(first.busy_for > 0 && first.in_flight == 1);
    let later = wait_for("its time", |row| busy(row).filter(|it| it.busy_for > first.busy_for));
    assert!(later.busy_for < 120_000_000_000);
    // The page has the time at which it was begun, and need not be written while it goes on.
    until("a longer sleep", || this_host().unwrap().heartbeat_period >= Duration::from_secs(4));
    drop(pending);
}

#[test]
fn a_host_that_forks_or_starts_another_program_is_one_host_or_none() {
    let name = name_of(a_host_that_forks_or_starts_another_program_is_one_host_or_none);
    if !is_rerun(name) {
        let mut host = host_of(name);
        let pid = host.id();
        until("the host", || is_host(pid));
        host.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        until("the other program", || {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            command.starts_with(b"sleep")
        });
        // It has the same id and start time, but no page.
        assert!(!is_host(pid));
        host.kill().unwrap();
        host.wait().unwrap();
        return;
    }
    let _channel = spawn(Config::small());
    wait_for("a page", |_| Some(()));
    let (path, before) = (page(), this_host().unwrap().rows.len());
    in_fork(move || {
        // The descriptor of its parent's page, which says that it is its parent's.
        let is_none = path.exists() && this_host().is_none();
        // Changes nothing for the parent, whose thread the child does not have.
        status_page::turn_off();
        status_page::turn_on();
        is_none && this_host().is_none()
    });
    assert_eq!(this_host().unwrap().rows.len(), before);
    wait_for_stdin();
    let error = std::os::unix::process::CommandExt::exec(Command::new("sleep").arg("1000"));
    panic!("{error}");
}

#[test]
fn a_process_that_wants_no_page_has_none_and_gets_one_when_it_does() {
    let name = name_of(a_process_that_wants_no_page_has_none_and_gets_one_when_it_does);
    if !is_rerun(name) {
        let mut host = rerun_command(name);
        let output = host.env("SLIPRING_STATUS_PAGE", "0").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let first = spawn(Config::small());
    assert_usable(&first);
    let threads = |name: &str| {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        let comm = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks.map(comm).filter(|comm| comm.as_ref().is_ok_and(|comm| comm.trim() == name)).count()
    };
    assert!(this_host().is_none() && threads("slipring-status") == 0);
    status_page::turn_on();
    let second = spawn(Config::small());
    wait_for("the second", |row| channel_of(row, second.pid()));
    assert_eq!(this_host().unwrap().rows.len(), 1, "the first was made before");
    status_page::turn_off();
    assert!(this_host().is_none());
    until("the end of its thread", || threads("slipring-status") == 0);
}

#[test]
fn a_host_can_decide_on_its_page_before_it_uses_the_library() {
    let name = name_of(a_host_can_decide_on_its_page_before_it_uses_the_library);
    if !is_rerun(name) {
        for wants in ["0", "1"] {
            let mut host = rerun_command(name);
            // The call is to decide, and not the variable.
            let other = if wants == "0" { "1" } else { "0" };
            let output = host.env("SLIPRING_STATUS_PAGE", other).env("WANTS", wants).output();
            let output = output.unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        return;
    }
    let wants_page = std::env::var("WANTS").unwrap() == "1";
    if wants_page {
        status_page::turn_on();
    } else {
        status_page::turn_off();
    }
    let channel = spawn(Config::small());
    assert_usable(&channel);
    if wants_page {
        wait_for("the channel", |row| channel_of(row, channel.pid()));
    } else {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        assert!(!targets.any(|target| target.to_string_lossy().contains("slipring-status")));
    }
}

/// Fields of the line of `/proc` about the thread of the page, counted from the state on.
fn fields_of_the_thread() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let stat = stats.find(|stat| stat.contains("(slipring-status)")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect()
}

#[test]
fn the_thread_of_the_page_has_no_priority_whichever_thread_starts_it() {
    let name = name_of(the_thread_of_the_page_has_no_priority_whichever_thread_starts_it);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let channel = std::thread::spawn(|| {
        let (priority, policy) = (libc::sched_param { sched_priority: 1 }, libc::SCHED_FIFO);
        // SAFETY: a live structure that is only read, and integers.
        #[allow(unsafe_code, reason = "a thread that no other may interrupt")]
        let is_first = unsafe { libc::sched_setscheduler(0, policy, &raw const priority) };
        // SAFETY: integers only.
        #[allow(unsafe_code, reason = "a thread that runs before others")]
        let is_quick = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -5) };
        (is_first == 0 && is_quick == 0).then(|| spawn(Config::small()))
    });
    let Some(channel) = channel.join().unwrap() else {
        println!("not tested: this process may not raise its priority");
        return;
    };
    wait_for("the channel", |row| channel_of(row, channel.pid()));
    let fields = fields_of_the_thread();
    let [nice, policy] = [16, 38].map(|at| fields[at].parse::<i32>().unwrap());
    assert_eq!((nice, policy), (0, libc::SCHED_OTHER));
}
