//! The list of what is mapped into this process.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file that is mapped into this process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MappedFile<'a> {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) path: &'a Path,
}

/// Returns the file that the text of `/proc/self/maps` names for an address.
pub(crate) fn mapped_at(maps: &[u8], address: u64) -> Option<MappedFile<'_>> {
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        // Range, rights, offset, device and inode; the path follows after more blanks.
        let fields: Vec<_> = line.splitn(6, |byte| *byte == b' ').collect();
        let &[range, _, _, device, inode, path] = &*fields else { return None };
        let text = |field| std::str::from_utf8(field).ok();
        let hex = |number| u64::from_str_radix(number, 16).ok();
        let (from, to) = text(range)?.split_once('-')?;
        if !(hex(from)?..hex(to)?).contains(&address) {
            return None;
        }
        let (major, minor) = text(device)?.split_once(':')?;
        let number = |part| u32::from_str_radix(part, 16).ok();
        let device = libc::makedev(number(major)?, number(minor)?);
        let inode = text(inode)?.parse().ok()?;
        let path = Path::new(OsStr::from_bytes(path.trim_ascii_start()));
        path.is_absolute().then_some(MappedFile { device, inode, path })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_map_is_read_off_the_list_of_maps() {
        let maps = b"1000-2000 r--p 00000000 fe:1c 18504        /a b/program\n\
                     2000-3000 rw-p 00000000 00:00 0 \n\
                     3000-4000 r--p 00000000 fe:00 7            [vdso]\n";
        let device = libc::makedev(0xfe, 0x1c);
        let program = MappedFile { device, inode: 18504, path: Path::new("/a b/program") };
        assert_eq!(mapped_at(maps, 0x1000).as_ref(), Some(&program));
        assert_eq!(mapped_at(maps, 0x1fff), Some(program));
        for elsewhere in [0xfff, 0x2000, 0x3000, 0x4000] {
            assert_eq!(mapped_at(maps, elsewhere), None, "{elsewhere:#x}");
        }
        assert_eq!(mapped_at(b"garbage", 1), None);
        assert_eq!(mapped_at(b"0-ffff rw-s 0 x y /z", 1), None);
    }
}
