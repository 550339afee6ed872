//! Unix sockets in the file system: whose the file is, and who may remove it.
//!
//! The file of a socket outlives the process that made it, so the next one has to remove it; and a
//! path may hold anything. Nothing is removed here but a socket: one that nobody listens on, or one's
//! own while it is still there.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// A socket that was bound this long ago is listened on by now, if its process lives.
const LISTENS: Duration = Duration::from_millis(20);

/// The file of a socket that this process listens on; removed with it, unless it is another's by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

/// What a file stays, whatever it is called and whoever may use it.
///
/// The number of an inode is used again as soon as its file is gone, so the time goes with it: that of
/// the last write, which a socket does not have after it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    made: (i64, i64),
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            made: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Listens at a path, in the place of a socket that nobody listens on any more.
///
/// # Errors
/// [`AddrInUse`](io::ErrorKind::AddrInUse) when somebody listens there, and
/// [`AlreadyExists`](io::ErrorKind::AlreadyExists) when there is something else than a socket.
pub(super) async fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if is_live(path).await? {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "the address is in use: another process listens on this socket",
                ));
            }
            remove(path, FileId::of(&found))?;
        }
        Ok(found) => {
            let what = match found.file_type() {
                kind if kind.is_dir() => "a directory",
                kind if kind.is_symlink() => "a symbolic link",
                kind if kind.is_file() => "a regular file",
                _ => "a special file",
            };
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "there is {what} at {} that is no socket, and it was left alone; choose another path, or remove it",
                    path.display()
                ),
            ));
        }
        // What is wrong with the path, binding says.
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    let id = FileId::of(&fs::symlink_metadata(path)?);
    let file = SocketFile {
        path: path.to_path_buf(),
        id,
    };
    Ok((listener, file))
}

/// Whether somebody listens on a socket.
async fn is_live(path: &Path) -> io::Result<bool> {
    for is_last in [false, true] {
        match UnixStream::connect(path).await {
            // Somebody who has just bound it may not have come to listen.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if !is_last {
                    tokio::time::sleep(LISTENS).await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // A full queue, or a socket of another type: it is somebody's.
            Ok(_) | Err(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// Removes a file if it is this one.
///
/// Whoever takes a path over may do so between a look and the removal. So the file is moved aside,
/// looked at again, and put back if it is another.
fn remove(path: &Path, id: FileId) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let is_it = |path: &Path| fs::symlink_metadata(path).map(|found| FileId::of(&found) == id);
    match is_it(path) {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let mut aside = path.as_os_str().to_owned();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    aside.push(format!(".{}.{number}.old", std::process::id()));
    let aside = PathBuf::from(aside);
    fs::rename(path, &aside)?;
    if !is_it(&aside)? {
        // A link does not replace what may be there by now.
        fs::hard_link(&aside, path)?;
    }
    fs::remove_file(&aside)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path, self.id) {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rpc-{}-{name}.sock", std::process::id()))
    }

    async fn refused(path: &Path) -> io::Error {
        listen(path).await.map(|_| ()).unwrap_err()
    }

    #[tokio::test]
    async fn data_at_a_sockets_path_is_never_removed() {
        let path = path("data");
        fs::write(&path, "precious").unwrap();
        let error = refused(&path).await;
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let text = error.to_string();
        assert!(
            text.contains("regular file") && text.contains(&*path.to_string_lossy()),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        // Nor are others, whatever they are.
        fs::create_dir(&path).unwrap();
        assert!(refused(&path).await.to_string().contains("directory"));
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(refused(&path).await.to_string().contains("symbolic link"));
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn data_that_takes_a_sockets_place_is_not_removed_with_it() {
        let path = path("replaced");
        let bound = listen(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(bound);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_in_use() {
        let path = path("stale");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (live, file) = listen(&path).await.unwrap();
        assert_eq!(refused(&path).await.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).await.unwrap();
        // A socket of another type is somebody's as well.
        drop((live, file));
        assert!(!path.exists());
        let datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert_eq!(refused(&path).await.kind(), io::ErrorKind::AddrInUse);
        drop(datagrams);
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn who_ends_leaves_the_file_of_who_came_after() {
        let path = path("after");
        let (old, old_file) = listen(&path).await.unwrap();
        drop(old);
        let (new, new_file) = listen(&path).await.unwrap();
        drop(old_file);
        UnixStream::connect(&path).await.unwrap();
        drop((new, new_file));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_moved_aside_by_mistake_comes_back() {
        let path = path("aside");
        fs::write(&path, "another's").unwrap();
        let found = FileId::of(&fs::symlink_metadata(&path).unwrap());
        let other = FileId {
            inode: found.inode.wrapping_add(1),
            ..found
        };
        remove(&path, other).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "another's");
        remove(&path, found).unwrap();
        assert!(!path.exists());
    }
}
