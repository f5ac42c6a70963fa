//! Real log lines: of one file, or of every readable text log of the machine.
//!
//! Invariant: every line handed out is unlike all others, because it starts with `pass:line`.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Enough of one machine's logs; the rest is said to be left out.
const SOURCE_LINES_MAX: usize = 200_000;
/// A record is at most 1 MiB with its key.
const LINE_BYTES_MAX: usize = 1 << 19;
/// Keys per file: enough to reach all shards, few enough that a key has many records.
const KEYS_PER_FILE: u64 = 16;

/// A line and the key under which it is put, where the walk chooses one.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// `pass:line text`.
    pub(crate) text: String,
    /// Lines of one file that fall on the same of a few numbers share a key.
    pub(crate) key: String,
}

/// Lines to put, and where they come from.
#[derive(Debug)]
pub(crate) struct Lines {
    /// In the order of the files, pass after pass.
    pub(crate) lines: Vec<Line>,
    /// How many different lines the sources hold.
    pub(crate) distinct: usize,
    /// How many lines the sources hold.
    pub(crate) source: usize,
    /// What the sources are, in words.
    pub(crate) told: String,
}

/// Lines of `file`, or of the machine's logs, repeated to at least `at_least`.
pub(crate) fn collect(file: Option<&Path>, at_least: usize) -> anyhow::Result<Lines> {
    let (files, told) = match file {
        Some(file) => (vec![file.to_path_buf()], format!("{}", file.display())),
        None => machine_logs(),
    };
    let mut source: Vec<(String, String)> = Vec::new();
    let mut read = 0;
    let mut left_out = 0;
    for path in &files {
        let Some(text) = text_of(path) else { continue };
        read += 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let lines = text.split('\n').map(|line| line.trim_end_matches('\r'));
        for (number, line) in lines.filter(|line| !line.is_empty()).enumerate() {
            if line.len() > LINE_BYTES_MAX || source.len() == SOURCE_LINES_MAX {
                left_out += 1;
                continue;
            }
            let mut place = DefaultHasher::new();
            number.hash(&mut place);
            let key = format!("{}#{}", shorten(&name), place.finish() % KEYS_PER_FILE);
            source.push((key, line.to_owned()));
        }
    }
    if source.is_empty() {
        bail!("no line of text in {told}");
    }
    let distinct = source.iter().map(|(_, line)| line).collect::<HashSet<_>>().len();
    let passes = at_least.div_ceil(source.len()).max(1);
    let mut lines = Vec::with_capacity(passes * source.len());
    for pass in 1..=passes {
        for (number, (key, line)) in source.iter().enumerate() {
            let text = format!("{pass}:{} {line}", number + 1);
            lines.push(Line { text, key: key.clone() });
        }
    }
    let told = format!("{told}: {read} files, {left_out} lines left out, {passes} passes");
    Ok(Lines { lines, distinct, source: source.len(), told })
}

/// Everything readable below /var/log; where that holds no text, the changelogs of the installed packages, which are
/// the next best thing that a bare machine has.
fn machine_logs() -> (Vec<PathBuf>, String) {
    let mut logs = Vec::new();
    files_below(Path::new("/var/log"), &mut logs);
    logs.retain(|path| text_of(path).is_some_and(|text| !text.trim().is_empty()));
    if !logs.is_empty() {
        return (logs, "the text logs below /var/log".to_owned());
    }
    let mut documents = Vec::new();
    files_below(Path::new("/usr/share/doc"), &mut documents);
    documents.retain(|path| path.extension().is_none_or(|end| end != "gz"));
    let told = "no text log below /var/log; the texts below /usr/share/doc instead".to_owned();
    (documents, told)
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => files_below(&path, files),
            Ok(metadata) if metadata.is_file() => files.push(path),
            _ => {}
        }
    }
}

/// The file's text; none if it cannot be read or is not text.
fn text_of(path: &Path) -> Option<String> {
    let text = String::from_utf8(fs::read(path).context("unreadable").ok()?).ok()?;
    (!text.contains('\0')).then_some(text)
}

fn shorten(name: &str) -> String {
    name.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_repeat_until_there_are_enough_and_no_two_lines_are_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "one\r\ntwo\n\none\n").unwrap();
        let lines = collect(Some(&path), 7).unwrap();
        assert_eq!((lines.source, lines.distinct, lines.lines.len()), (3, 2, 9));
        assert_eq!(lines.lines[0].text, "1:1 one");
        assert_eq!(lines.lines[8].text, "3:3 one");
        assert_eq!(lines.lines[0].key, lines.lines[3].key, "a line keeps its key in every pass");
        let texts: HashSet<&str> = lines.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts.len(), 9);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, [0xff, 0xfe, 0, 1]).unwrap();
        assert!(collect(Some(&path), 1).is_err());
    }
}
