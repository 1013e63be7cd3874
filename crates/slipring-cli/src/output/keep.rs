//! What a file that replaces another takes over from it: owner, permissions, attributes.
//! Not every file system lets every user set them, and no result is lost for that.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

/// The longest value of an attribute, and of the list of their names, that Linux has.
const LONGEST: usize = 64 << 10;
/// The permissions beyond the mode.
const ACL: &[u8] = b"system.posix_acl_access";
const USER: &[u8] = b"user.";

/// Gives `new` what `old` has, as far as that is possible, and never opens it to more people.
pub(super) fn keep(old: &File, new: &File) -> io::Result<()> {
    let before = old.metadata()?;
    // The group alone may be possible where the owner is not.
    let owned = fchown(new, Some(before.uid()), Some(before.gid()))
        .or_else(|_| fchown(new, None, Some(before.gid())));
    let after = new.metadata()?;
    let has_group = owned.is_ok() || after.gid() == before.gid();
    let mode = mode(before.mode() & 0o7777, after.uid() == before.uid(), has_group);
    // Changing the owner clears bits of the mode, and so comes first.
    let _ = new.set_permissions(std::fs::Permissions::from_mode(mode));
    if has_group {
        let _ = copy_attributes(old, new);
    }
    Ok(())
}

/// The mode for a file whose owner or group may be another than before.
fn mode(mode: u32, has_owner: bool, has_group: bool) -> u32 {
    // A program that runs with another's rights is not meant to run with these.
    let mode = if has_owner && has_group { mode } else { mode & !0o6000 };
    // Another group gets no more than everybody has.
    if has_group { mode } else { mode & (!0o070 | (mode & 0o007) << 3) }
}

/// Copies access control lists and what users have attached. All others, such as the
/// kernel's signatures, are of the content that was there before.
fn copy_attributes(old: &File, new: &File) -> Result<(), Errno> {
    let mut names = vec![0; LONGEST];
    let len = flistxattr(old, &mut *names)?;
    let mut value = vec![0; LONGEST];
    for name in names.get(..len).unwrap_or_default().split(|byte| *byte == 0) {
        if name == ACL || name.starts_with(USER) {
            let copied = fgetxattr(old, name, &mut *value).and_then(|len| {
                let value = value.get(..len).unwrap_or_default();
                fsetxattr(new, name, value, XattrFlags::empty())
            });
            // One that cannot be kept says nothing about the next.
            let _ = copied;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_group_gets_no_more_than_everybody_had() {
        assert_eq!(mode(0o4750, true, true), 0o4750);
        assert_eq!(mode(0o6770, false, true), 0o770);
        assert_eq!(mode(0o660, true, false), 0o600);
        assert_eq!(mode(0o664, true, false), 0o644);
        assert_eq!(mode(0o2775, true, false), 0o755);
        assert_eq!(mode(0o604, false, false), 0o604);
    }
}
