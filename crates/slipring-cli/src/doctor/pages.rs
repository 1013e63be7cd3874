//! Sizes of pages of memory.

use rustix::param::page_size;
use serde_json::json;

use super::files::Files;
use super::item::{Item, State, bytes};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

pub(super) fn items(files: &Files<'_>) -> Vec<Item> {
    vec![base(), shared(files), private(files), reserved(files)]
}

fn base() -> Item {
    let size = u64::try_from(page_size()).unwrap_or(u64::MAX);
    let item = Item::ok("pages.size", bytes(size), "Rings lie on whole pages.");
    let item = item.with(json!({ "bytes": size }));
    if size == 4096 {
        return item;
    }
    let meaning = "slipring was tried with pages of 4 KiB. Its rings lie on pages of 4 KiB each.";
    item.but(State::Warn, meaning, "Use a kernel with pages of 4 KiB.")
}

fn shared(files: &Files<'_>) -> Item {
    const NAME: &str = "pages.shmem_huge";
    let Some(choice) = files.choice(&format!("{THP}/shmem_enabled")) else {
        let meaning = "Whether rings get huge pages is not known. They work with any.";
        return Item::unknown(NAME, "/sys does not tell", meaning);
    };
    let meaning = match choice.as_str() {
        "always" | "force" => {
            "Rings get pages of 2 MiB where they can: fewer misses, more memory for small rings."
        }
        "within_size" => "Rings of 2 MiB and more get pages of 2 MiB.",
        _ => {
            "Rings have pages of 4 KiB: slipring asks for no huge ones. For rings of many MiB, within_size may \
              be faster: compare with `slipring bench`."
        }
    };
    Item::ok(NAME, choice.clone(), meaning).with(json!({ "choice": choice }))
}

fn private(files: &Files<'_>) -> Item {
    const NAME: &str = "pages.huge";
    match files.choice(&format!("{THP}/enabled")) {
        Some(choice) if choice == "never" => {
            Item::ok(NAME, choice.clone(), "").with(json!({ "choice": choice })).but(
                State::Note,
                "Large arrays of hosts and workers have pages of 4 KiB. Rings do not depend on it.",
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, for hosts in Python.",
            )
        }
        Some(choice) => {
            let meaning =
                "Large arrays of hosts and workers can have huge pages. Rings do not depend on it.";
            Item::ok(NAME, choice.clone(), meaning).with(json!({ "choice": choice }))
        }
        None => Item::unknown(NAME, "/sys does not tell", "Rings do not depend on it."),
    }
}

fn reserved(files: &Files<'_>) -> Item {
    const NAME: &str = "pages.hugetlb";
    let Some(total) = files.field("/proc/meminfo", "HugePages_Total").and_then(|n| n.parse().ok())
    else {
        return Item::unknown(NAME, "/proc/meminfo does not tell", "slipring uses none.");
    };
    let free: u64 =
        files.field("/proc/meminfo", "HugePages_Free").and_then(|n| n.parse().ok()).unwrap_or(0);
    let data = json!({ "total": total, "free": free });
    match (total, free) {
        (0_u64, _) => Item::ok(NAME, "none reserved", "slipring uses none.").with(data),
        (total, free) => {
            let value = format!("{total} reserved, {free} free");
            let meaning =
                "slipring uses none: what is free of them is memory that nothing else can have.";
            Item::ok(NAME, value, meaning).with(data)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_told_with_their_meaning_and_a_lack_of_sys_too() {
        let texts = [
            (
                "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
                "always [within_size] advise never deny force",
            ),
            ("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]"),
            ("/proc/meminfo", "MemTotal: 1 kB\nHugePages_Total:      8\nHugePages_Free:       3\n"),
        ];
        let files = Files::given(&texts);
        assert_eq!(shared(&files).value, "within_size");
        assert_eq!((private(&files).state, private(&files).value.as_str()), (State::Note, "never"));
        assert_eq!(reserved(&files).value, "8 reserved, 3 free");
        let none = Files::given(&[]);
        for item in [shared(&none), private(&none), reserved(&none)] {
            assert!(item.value.starts_with("not known"), "{item:?}");
        }
    }
}
