//! Files that decide who comes in and who may what.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Permissions by which others than the owner could change what the file says.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The text of a file that decides who may what; an error is a message. `danger` is what others could do if they wrote
/// to it, `way_out` what to do where it is not there.
pub(super) fn read(path: &Path, danger: &str, way_out: &str) -> Result<String, String> {
    let shown = path.display();
    let cannot = |error| format!("cannot read {shown}: {error}; {way_out}");
    let mode = fs::metadata(path).map_err(cannot)?.permissions().mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(format!(
            "{shown} has permissions {mode:04o}, so others may {danger}; expected 0600 or 0640 (chmod 600)"
        ));
    }
    fs::read_to_string(path).map_err(cannot)
}
