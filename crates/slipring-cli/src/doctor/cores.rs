//! The processors that this process may use, and how they belong together.

use rustix::thread::{CpuSet, sched_getaffinity};
use serde_json::json;

use super::files::{Files, list_of, numbers_of};
use super::item::{Item, State};

const CPU: &str = "/sys/devices/system/cpu";

/// The processors of this machine, as far as this process sees them.
#[derive(Debug, Default)]
pub(super) struct Cores {
    /// Those that this process may use; empty if that is not known.
    pub(super) allowed: Vec<usize>,
    /// Those of the machine, if `/sys` tells.
    pub(super) online: Option<Vec<usize>>,
    /// Where each of the allowed ones is, if `/sys` tells.
    pub(super) places: Vec<(usize, Place)>,
}

/// Where a processor is.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Place {
    /// The processors of its core, which are hardware threads.
    siblings: Vec<usize>,
    package: Option<u64>,
    /// The processors that share its last cache.
    last_cache: Vec<usize>,
}

/// How two processors belong together, the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Relation {
    Siblings,
    Cache,
    Package,
    Apart,
    Unknown,
}

impl Relation {
    pub(super) const ALL: [Self; 5] =
        [Self::Siblings, Self::Cache, Self::Package, Self::Apart, Self::Unknown];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Siblings => "two threads of one core",
            Self::Cache => "one last cache",
            Self::Package => "one package, no cache in common",
            Self::Apart => "two packages",
            Self::Unknown => "relation not known",
        }
    }

    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Siblings => "siblings",
            Self::Cache => "cache",
            Self::Package => "package",
            Self::Apart => "apart",
            Self::Unknown => "unknown",
        }
    }
}

impl Cores {
    pub(super) fn read(files: &Files<'_>) -> Self {
        let set = sched_getaffinity(None).ok();
        let is_set = |set: &CpuSet| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        Self::of(files, set.as_ref().map_or_else(Vec::new, is_set))
    }

    fn of(files: &Files<'_>, allowed: Vec<usize>) -> Self {
        let list = |path: String| files.text(&path).and_then(|text| numbers_of(&text));
        let place = |cpu: usize| {
            let siblings = list(format!("{CPU}/cpu{cpu}/topology/thread_siblings_list"))?;
            let package = files.number(&format!("{CPU}/cpu{cpu}/topology/physical_package_id"));
            let shared = |index| list(format!("{CPU}/cpu{cpu}/cache/index{index}/shared_cpu_list"));
            let last_cache = (0..8).rev().find_map(shared).unwrap_or_default();
            Some((cpu, Place { siblings, package, last_cache }))
        };
        let places = allowed.iter().copied().filter_map(place).collect();
        let online = list(format!("{CPU}/online"));
        Self { allowed, online, places }
    }

    fn place(&self, cpu: usize) -> Option<&Place> {
        self.places.iter().find(|(other, _)| *other == cpu).map(|(_, place)| place)
    }

    pub(super) fn relation(&self, one: usize, other: usize) -> Relation {
        let (Some(place), Some(beside)) = (self.place(one), self.place(other)) else {
            return Relation::Unknown;
        };
        if place.siblings.contains(&other) {
            Relation::Siblings
        } else if place.last_cache.contains(&other) {
            Relation::Cache
        } else if place.package.is_some() && place.package == beside.package {
            Relation::Package
        } else {
            Relation::Apart
        }
    }

    /// Cores, not counting their hardware threads; `None` if that is not known.
    fn count(&self) -> Option<usize> {
        if self.places.is_empty() || self.places.len() != self.allowed.len() {
            return None;
        }
        let is_first = |(cpu, place): &&(usize, Place)| {
            let in_use = |sibling: &&usize| self.allowed.contains(sibling);
            place.siblings.iter().filter(in_use).min().is_none_or(|first| first == cpu)
        };
        Some(self.places.iter().filter(is_first).count())
    }

    fn packages(&self) -> usize {
        let mut packages: Vec<_> =
            self.places.iter().filter_map(|(_, place)| place.package).collect();
        packages.sort_unstable();
        packages.dedup();
        packages.len()
    }
}

pub(super) fn items(files: &Files<'_>, cores: &Cores) -> Vec<Item> {
    vec![allowed(cores), topology(cores), machine(files)]
}

fn allowed(cores: &Cores) -> Item {
    const NAME: &str = "cores.allowed";
    let Cores { allowed, online, .. } = cores;
    let data = json!({ "allowed": allowed, "online": online });
    let value = match (allowed.as_slice(), online) {
        ([], _) => {
            let meaning = "Processors may be few; slipring works with one.";
            return Item::unknown(NAME, "the kernel refuses to tell", meaning).with(data);
        }
        (allowed, Some(online)) if allowed.len() < online.len() => {
            format!("{} of {}: {}", allowed.len(), online.len(), list_of(allowed))
        }
        (allowed, _) => format!("{}: {}", allowed.len(), list_of(allowed)),
    };
    let item =
        Item::ok(NAME, value, "Processors that this process and its workers may use.").with(data);
    match allowed.len() {
        1 => item.but(
            State::Warn,
            "Host and worker take turns on one processor: a call takes two switches between them.",
            "Allow two processors or more (taskset, cpuset).",
        ),
        _ => item,
    }
}

fn topology(cores: &Cores) -> Item {
    const NAME: &str = "cores.topology";
    let Some(count) = cores.count() else {
        return Item::unknown(
            NAME,
            "/sys does not tell",
            "Which processors are near each other is open.",
        );
    };
    let (threads, packages) = (cores.allowed.len(), cores.packages().max(1));
    let data = json!({ "processors": threads, "cores": count, "packages": packages });
    let value = format!("{threads} processors, {count} cores, packages: {packages}");
    let meaning = match threads > count {
        true => {
            "Some are two hardware threads of one core: near, but host and worker slow each other down."
        }
        false => "Each processor is a core of its own.",
    };
    Item::ok(NAME, value, meaning).with(data)
}

fn machine(files: &Files<'_>) -> Item {
    const NAME: &str = "cores.machine";
    let Some(info) = files.text("/proc/cpuinfo") else {
        return Item::unknown(
            NAME,
            "/proc/cpuinfo is not there",
            "The processor's name is for reports.",
        );
    };
    let field = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let is_virtual =
        field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let item =
        Item::ok(NAME, model.clone(), "").with(json!({ "model": model, "virtual": is_virtual }));
    match is_virtual {
        true => Item {
            value: format!("{model}, virtual"),
            meaning: "The machine below may move or stop processors at any time: figures vary from run to \
                      run."
                .into(),
            ..item
        },
        false => Item { meaning: "No sign of a virtual machine.".into(), ..item },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two packages of two cores with two threads each; the cores of a package share a cache.
    fn server() -> Vec<(String, String)> {
        let mut files = vec![(format!("{CPU}/online"), "0-7\n".to_owned())];
        for cpu in 0..8_usize {
            let (package, core) = (cpu / 4, cpu / 2 * 2);
            let of = |name: &str, text: String| (format!("{CPU}/cpu{cpu}/{name}"), text);
            files.push(of("topology/thread_siblings_list", format!("{core}-{}\n", core + 1)));
            files.push(of("topology/physical_package_id", format!("{package}\n")));
            files.push(of("cache/index0/shared_cpu_list", format!("{core}-{}\n", core + 1)));
            files.push(of(
                "cache/index3/shared_cpu_list",
                format!("{}-{}\n", package * 4, package * 4 + 3),
            ));
        }
        files
    }

    fn given(files: &[(String, String)]) -> Vec<(&str, &str)> {
        files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect()
    }

    #[test]
    fn how_processors_belong_together_is_read() {
        let files = server();
        let files = given(&files);
        let cores = Cores::of(&Files::given(&files), (0..8).collect());
        for (other, relation) in [
            (1, Relation::Siblings),
            (2, Relation::Cache),
            (3, Relation::Cache),
            (4, Relation::Apart),
        ] {
            assert_eq!(cores.relation(0, other), relation, "{other}");
        }
        assert_eq!(topology(&cores).value, "8 processors, 4 cores, packages: 2");
        let few = Cores::of(&Files::given(&files), vec![1, 2, 3]);
        assert_eq!(topology(&few).value, "3 processors, 2 cores, packages: 1");
        assert_eq!(allowed(&few).value, "3 of 8: 1-3");
        assert_eq!(few.relation(1, 7), Relation::Unknown);
    }

    #[test]
    fn without_sys_only_what_the_kernel_allows_is_known() {
        let cores = Cores::of(&Files::given(&[]), vec![0, 1]);
        assert_eq!((allowed(&cores).state, allowed(&cores).value.as_str()), (State::Ok, "2: 0,1"));
        assert!(topology(&cores).value.starts_with("not known"));
        assert_eq!(cores.relation(0, 1), Relation::Unknown);
        assert_eq!(allowed(&Cores::default()).state, State::Note);
        assert_eq!(allowed(&Cores { allowed: vec![3], ..Cores::default() }).state, State::Warn);
    }

    #[test]
    fn a_virtual_machine_is_known_by_its_flags() {
        let with = |text: &str| machine(&Files::given(&[("/proc/cpuinfo", text)])).value;
        let text = "processor\t: 0\nmodel name\t: A 1\nflags\t\t: fpu hypervisor\n";
        assert_eq!(with(text), "A 1, virtual");
        assert_eq!(with(&text.replace("hypervisor", "hyper")), "A 1");
        assert_eq!(with(""), std::env::consts::ARCH);
    }
}
