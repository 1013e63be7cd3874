//! Examines the two regions of a channel: headers first, then what they say where it is.

use std::io;

use super::memory::Memory;
use super::report::{ChannelMemory, Check, Layout, Options, RingMemory, Verdict};
use super::ring::Place;
use super::tables::{check, worker_lines};
use crate::error::Result;
use crate::shm::layout::{RegionHeader, Side, as_usize, control, short_id};

/// A channel's memory, and what is known of it from elsewhere.
pub(crate) struct Source<'a> {
    /// The short id, from the names of the files.
    pub(crate) id: u64,
    pub(crate) down: &'a dyn Memory,
    pub(crate) up: &'a dyn Memory,
    /// The process whose descriptors they are, as it calls itself; `None` if that is not known.
    pub(crate) pid: Option<u32>,
}

/// Checks and reads a channel's memory. What is wrong is part of the result.
pub(crate) fn examine(source: &Source<'_>, options: &Options) -> ChannelMemory {
    let mut found = ChannelMemory {
        id: source.id,
        checks: Vec::new(),
        layout: None,
        rings: Vec::new(),
        worker: None,
    };
    if let Err(error) = source.examine(options, &mut found) {
        found.checks.push(check("reading", Some(error.to_string())));
    }
    found
}

impl Source<'_> {
    fn examine(&self, options: &Options, found: &mut ChannelMemory) -> io::Result<()> {
        let checks = &mut found.checks;
        let parsed = RegionHeader::parse(&header_bytes(self.down)?, Side::Down, self.down.len());
        checks.push(checked("host's header", &parsed));
        let Ok(header) = parsed else {
            checks.extend(
                ["worker's header", "worker's region", "rings"]
                    .map(|name| skipped(name, "the host's header does not say where it is")),
            );
            return Ok(());
        };
        let said = short_id(header.channel);
        checks.push(check(
            "channel",
            (said != self.id).then(|| {
                format!("the header is of channel {said:016x}, the file of {:016x}", self.id)
            }),
        ));
        checks.push(match self.pid {
            None => skipped("host's process", "its own id is not known"),
            Some(pid) => check(
                "host's process",
                (pid != header.pid).then(|| format!("{} by the header, and {pid}", header.pid)),
            ),
        });
        let answer_bytes = header_bytes(self.up)?;
        let answer = RegionHeader::parse(&answer_bytes, Side::Up, self.up.len())
            .and_then(|answer| answer.check_answers(&header).map(|()| answer));
        checks.push(match answer_bytes.iter().all(|byte| *byte == 0) {
            true => skipped("worker's header", "no worker has attached"),
            false => checked("worker's header", &answer),
        });
        let (len, wanted) = (self.up.len(), header.peer.region_len);
        let is_whole = len == wanted;
        checks.push(check(
            "worker's region",
            (!is_whole).then(|| format!("{len} bytes, and the host's header says {wanted}")),
        ));
        let answer = answer.ok();
        found.layout = Some(Layout {
            version: header.layout_version,
            host_pid: header.pid,
            worker_pid: answer.map_or(0, |answer| answer.pid),
            host_library: header.build_name(),
            worker_library: answer.map(|answer| answer.build_name()).unwrap_or_default(),
            host_region: header.own.region_len,
            worker_region: header.peer.region_len,
            max_in_flight: header.own.request_count,
            stream_window: header.stream_window,
            max_message: header.max_message,
        });
        if !is_whole {
            checks.push(skipped("rings", "the worker's region has another length"));
            return Ok(());
        }
        self.examine_parts(&header, options, found)
    }

    fn examine_parts(
        &self,
        header: &RegionHeader,
        options: &Options,
        found: &mut ChannelMemory,
    ) -> io::Result<()> {
        let (down, up) = (self.down, self.up);
        let places = [
            ("requests", down, up, header.own.data, control::DATA),
            ("replies", up, down, header.peer.data, control::DATA),
            ("pings", down, up, header.own.health, control::HEALTH),
            ("answers", up, down, header.peer.health, control::HEALTH),
        ];
        let mut rings: Vec<RingMemory> = Vec::new();
        let mut of_rings = Vec::new();
        for (name, writer, reader, layout, lines) in places {
            let (ring, checks) = Place { name, writer, reader, layout, lines }.read(options)?;
            rings.push(ring);
            of_rings.extend(checks);
        }
        // After the requests: what is marked by now was still in the ring then.
        let (worker, marks, checks) = worker_lines(down, up, [&header.own, &header.peer], options)?;
        let stores_marks = worker.state != "starting" || worker.mark_count > 0;
        if let Some(requests) = rings.first_mut().filter(|_| stores_marks) {
            marks.explain(&mut requests.frames);
        }
        found.checks.extend(of_rings.into_iter().chain(checks));
        found.rings = rings;
        found.worker = Some(worker);
        Ok(())
    }
}

/// The start of a region, shorter than a header if the region is.
fn header_bytes(memory: &dyn Memory) -> io::Result<Vec<u8>> {
    let len = as_usize(memory.len()).min(size_of::<RegionHeader>());
    let mut bytes = vec![0; len];
    memory.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn checked<T>(name: &str, result: &Result<T>) -> Check {
    check(name, result.as_ref().err().map(ToString::to_string))
}

fn skipped(name: &str, why: &str) -> Check {
    Check { name: name.to_owned(), verdict: Verdict::Skipped, why: why.to_owned() }
}
