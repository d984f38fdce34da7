//! A file of lines that is put aside by size and by age.
//!
//! Whoever else moves the file away (logrotate) need not tell: before each write it is looked whether
//! the path still names the file that is open.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// When a file is put aside, and how many are kept.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Octets.
    pub size: u64,
    /// Age.
    pub every: Option<Duration>,
    /// Files kept aside.
    pub keep: u32,
}

/// The file that is open.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    length: u64,
    since: Instant,
}

impl Lines {
    /// Opens or makes the file; lines go to its end.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(path: &Path, rotation: Rotation) -> io::Result<Lines> {
        let file = append_to(path)?;
        Ok(Lines {
            length: file.metadata()?.len(),
            path: path.to_owned(),
            rotation,
            file,
            since: Instant::now(),
        })
    }

    /// Writes whole lines; after a failure none of them stays half written.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.follow()?;
        let is_old = self
            .rotation
            .every
            .is_some_and(|age| self.since.elapsed() >= age);
        if self.length > 0 && (self.length >= self.rotation.size || is_old) {
            self.rotate()?;
        }
        let length = self.length;
        self.file.write_all(lines).inspect_err(|_| {
            // What cannot be cut off is a torn line: the reader sees it is no JSON.
            let _ = self.file.set_len(length);
        })?;
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Opens the path again if another file stands there now, or none.
    fn follow(&mut self) -> io::Result<()> {
        let open = self.file.metadata()?;
        let is_same = std::fs::metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino()));
        if !is_same {
            *self = Lines::open(&self.path, self.rotation)?;
        }
        Ok(())
    }

    /// `log` becomes `log.1`, that `log.2`, and so on; the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        let aside = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.rotation.keep).rev() {
            match std::fs::rename(aside(number), aside(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match self.rotation.keep {
            0 => std::fs::remove_file(&self.path)?,
            _ => std::fs::rename(&self.path, aside(1))?,
        }
        *self = Lines::open(&self.path, self.rotation)?;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(size: u64, keep: u32) -> Rotation {
        Rotation {
            size,
            every: None,
            keep,
        }
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("sub/log");
        let mut lines = Lines::open(&path, rotation(8, 2)).unwrap();
        for number in 0..5 {
            lines
                .write(format!("line {number}\nx\n").as_bytes())
                .unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(place.path().join("sub").join(name));
        assert_eq!(read("log").unwrap(), "line 4\nx\n");
        assert_eq!(read("log.1").unwrap(), "line 3\nx\n");
        assert_eq!(read("log.2").unwrap(), "line 2\nx\n");
        assert!(read("log.3").is_err());
        // One that a process before left is gone on with.
        drop(lines);
        let mut lines = Lines::open(&path, rotation(100, 2)).unwrap();
        lines.write(b"more\n").unwrap();
        assert_eq!(read("log").unwrap(), "line 4\nx\nmore\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_another() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let mut lines = Lines::open(&path, rotation(1000, 2)).unwrap();
        lines.write(b"one\n").unwrap();
        std::fs::rename(&path, place.path().join("moved")).unwrap();
        lines.write(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        std::fs::remove_file(&path).unwrap();
        lines.write(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn an_old_file_is_put_aside() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("log");
        let every = Some(Duration::ZERO);
        let mut lines = Lines::open(
            &path,
            Rotation {
                every,
                ..rotation(1000, 3)
            },
        )
        .unwrap();
        lines.write(b"one\n").unwrap();
        lines.write(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(
            std::fs::read_to_string(place.path().join("log.1")).unwrap(),
            "one\n"
        );
    }
}
