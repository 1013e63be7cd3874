//! The files of the kernel that are read.

/// Reads files by their path. Tests give it texts.
pub(super) struct Files<'a>(Box<Read<'a>>);

type Read<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// No file of the kernel that is read here is longer.
const LONGEST: u64 = 4 << 20;

impl<'a> Files<'a> {
    pub(super) fn of_the_machine() -> Self {
        Self(Box::new(|path| {
            use std::io::Read;
            let mut text = Vec::new();
            std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        }))
    }

    #[cfg(test)]
    pub(super) fn given(files: &'a [(&'a str, &'a str)]) -> Self {
        Self(Box::new(move |path| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| (*text).to_owned())
        }))
    }

    /// The text of a file without the line break at its end; `None` if it cannot be read.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        (self.0)(path).map(|text| text.trim_end().to_owned())
    }

    /// The number in a file.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }

    /// The word of a list that is in brackets: `always [madvise] never`.
    pub(super) fn choice(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let chosen = text.split_once('[')?.1.split_once(']')?.0;
        Some(chosen.to_owned())
    }

    /// The value of a line `Key: value` of a file.
    pub(super) fn field(&self, path: &str, key: &str) -> Option<String> {
        let text = self.text(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }
}

/// The numbers of a list as `0-3,8`; `None` if it is none. Numbers beyond a machine's are left out.
pub(super) fn numbers_of(list: &str) -> Option<Vec<usize>> {
    const MOST: usize = 8192;
    let mut numbers = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        numbers.extend(first..=last.min(MOST));
    }
    Some(numbers)
}

/// Ascending numbers as `0-3,8`.
pub(super) fn list_of(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).flat_map(|run| match run {
        [first, .., last] if run.len() > 2 => vec![format!("{first}-{last}")],
        _ => run.iter().map(usize::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_read_back_and_nonsense_is_none() {
        for list in ["0-3,8", "0,1", "5", ""] {
            assert_eq!(list_of(&numbers_of(list).unwrap()), list);
        }
        for nonsense in ["a", "1-", "-1", "0-b", "max"] {
            assert_eq!(numbers_of(nonsense), None, "{nonsense}");
        }
        assert!(numbers_of("0-18446744073709551615").unwrap().len() < 10_000);
        assert_eq!(numbers_of("9-3").unwrap(), [0; 0]);
    }

    #[test]
    fn values_are_found_in_their_files() {
        let texts =
            [("/n", "42\n"), ("/c", "always [madvise] never\n"), ("/f", "A: 1\nAB:\t2 kB\n")];
        let files = Files::given(&texts);
        assert_eq!(
            (files.number("/n"), files.number("/c"), files.number("/x")),
            (Some(42), None, None)
        );
        assert_eq!((files.choice("/c").as_deref(), files.choice("/n")), (Some("madvise"), None));
        assert_eq!(files.field("/f", "AB").as_deref(), Some("2 kB"));
        assert_eq!(files.field("/f", "B"), None);
    }
}
