//! Copies owner, permissions and attributes from the file that is replaced. Not every file
//! system supports them and not every user may set them, so failures are ignored.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::io::Errno;

/// The limit of Linux for an attribute's value, and for the list of names.
const LONGEST: usize = 64 << 10;
/// The access control list.
const ACL: &[u8] = b"system.posix_acl_access";
const USER: &[u8] = b"user.";

/// Copies owner, group, mode and attributes as far as possible. Never grants access to more
/// users than `old` did.
pub(super) fn keep(old: &File, new: &File) -> io::Result<()> {
    let before = old.metadata()?;
    // Without the right to give files away, a user may still choose among its own groups.
    let owned = fchown(new, Some(before.uid()), Some(before.gid()))
        .or_else(|_| fchown(new, None, Some(before.gid())));
    let after = new.metadata()?;
    let has_group = owned.is_ok() || after.gid() == before.gid();
    let mode = mode(before.mode() & 0o7777, after.uid() == before.uid(), has_group);
    // Changing the owner clears bits of the mode, so the mode is set afterwards.
    let _ = new.set_permissions(std::fs::Permissions::from_mode(mode));
    if has_group {
        let _ = copy_attributes(old, new);
    }
    Ok(())
}

/// Returns the mode for the new file, given whether its owner and group are the old ones.
fn mode(mode: u32, has_owner: bool, has_group: bool) -> u32 {
    // The set-id bits would grant the rights of the wrong user or group.
    let mode = if has_owner && has_group { mode } else { mode & !0o6000 };
    // A different group gets only what all users have.
    if has_group { mode } else { mode & (!0o070 | (mode & 0o007) << 3) }
}

/// Copies the access control list and the users' attributes. Others, such as signatures,
/// belong to the old content.
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
            // The next attribute may be possible.
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
