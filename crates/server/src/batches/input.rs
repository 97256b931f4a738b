//! The lines of a batch's files: where each is, and reading them again a stretch at a time.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use galerne_drivers::objects::{ObjectError, Objects};
use galerne_model::file::object_of;
use galerne_model::ids::FileId;
use galerne_model::limits;

use super::lines::Judge;

/// Longest line: the largest body, and what is around it.
const LINE_MAX_BYTES: usize = limits::INFERENCE_BODY_MAX_BYTES + 4 * 1024;
/// What is read ahead at once: hundreds of usual requests, one of the longest.
const STRETCH_BYTES: u64 = 256 * 1024;

/// Where a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    file: u16,
    offset: u64,
    length: u32,
}

/// Where the lines of a batch are. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Index {
    files: Arc<Vec<FileId>>,
    places: Arc<Vec<Place>>,
}

/// A part of a file that was read.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    file: u16,
    offset: u64,
    bytes: Bytes,
}

/// Finds the lines of some files; `judge` looks at each, if there is one.
pub(super) async fn scan(objects: &Objects, files: &[FileId], judge: &mut Option<Judge>) -> Result<Index, ObjectError> {
    let mut places = Vec::new();
    let mut number = 0;
    for (file, id) in (0_u16..).zip(files) {
        let mut stream = objects.read(&object_of(*id), None).await?.bytes;
        let (mut line, mut offset, mut begins) = (Vec::new(), 0_u64, 0_u64);
        let mut end_line = |line: &mut Vec<u8>, begins: u64, judge: &mut Option<Judge>| {
            number += 1;
            let text = line.trim_ascii();
            if !text.is_empty() {
                match judge {
                    Some(judge) if text.len() > LINE_MAX_BYTES => judge.too_long(number),
                    Some(judge) => judge.look(number, text),
                    None => {}
                }
                places.push(Place { file, offset: begins, length: u32::try_from(line.len()).unwrap_or(u32::MAX) });
            }
            line.clear();
        };
        while let Some(chunk) = stream.try_next().await? {
            for part in chunk.split_inclusive(|byte| *byte == b'\n') {
                // What is beyond the longest is not kept: the judge says so, and nothing of it is run.
                let room = (LINE_MAX_BYTES + 1).saturating_sub(line.len());
                line.extend_from_slice(&part[..part.len().min(room)]);
                offset += part.len() as u64;
                if part.ends_with(b"\n") {
                    end_line(&mut line, begins, judge);
                    begins = offset;
                }
            }
            if judge.as_ref().is_some_and(Judge::has_seen_enough) {
                break;
            }
            // Judging a chunk takes a while where lines are short.
            tokio::task::yield_now().await;
        }
        end_line(&mut line, begins, judge);
    }
    Ok(Index { files: Arc::new(files.to_vec()), places: Arc::new(places) })
}

impl Index {
    /// How many lines there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The bytes of a line, out of `stretch` or of the next one, which then takes its place.
    pub(super) async fn line(
        &self,
        objects: &Objects,
        stretch: &mut Stretch,
        index: usize,
    ) -> Result<Bytes, ObjectError> {
        let place = self.places[index];
        if !stretch.holds(place) {
            let (from, least) = (place.offset, u64::from(place.length));
            let same = self.places[index..].iter().take_while(|next| next.file == place.file);
            let ends = same.map(|next| next.offset + u64::from(next.length));
            let until = ends.take_while(|end| *end <= from + STRETCH_BYTES).last().unwrap_or(from + least);
            let name = object_of(self.files[usize::from(place.file)]);
            let bytes = objects.read_range(&name, from..until.max(from + least)).await?;
            *stretch = Stretch { file: place.file, offset: from, bytes };
        }
        Ok(stretch.cut(place))
    }
}

impl Stretch {
    fn holds(&self, place: Place) -> bool {
        let end = self.offset + self.bytes.len() as u64;
        self.file == place.file && place.offset >= self.offset && place.offset + u64::from(place.length) <= end
    }

    fn cut(&self, place: Place) -> Bytes {
        let from =
            usize::try_from(place.offset.saturating_sub(self.offset)).unwrap_or(usize::MAX).min(self.bytes.len());
        let until = from.saturating_add(place.length as usize).min(self.bytes.len());
        self.bytes.slice(from..until)
    }
}

#[cfg(test)]
mod tests {
    use galerne_drivers::objects::Place as Where;
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn lines_are_found_and_read_again_whatever_lies_between_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let objects = Objects::open(&Where::Folder(folder.path().to_owned())).expect("opens");
        let files = [1, 2, 3].map(|n| FileId::from_uuid(Uuid::from_u128(n)));
        let long = format!("{{\"x\":\"{}\"}}", "y".repeat(300_000));
        let texts = [format!("\n{{\"a\":1}}\r\n\n  {{\"b\":2}} \n{long}"), String::new(), "{\"c\":3}\n".to_owned()];
        for (id, text) in files.iter().zip(&texts) {
            objects.put(&object_of(*id), Bytes::from(text.clone())).await.expect("writes");
        }
        let index = scan(&objects, &files, &mut None).await.expect("scans");
        let wanted = ["{\"a\":1}", "{\"b\":2}", &long, "{\"c\":3}"];
        assert_eq!(index.len(), wanted.len());
        let mut stretch = Stretch::default();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 3, 0, 3]] {
            for n in order {
                let line = index.line(&objects, &mut stretch, n).await.expect("reads");
                assert_eq!(line.trim_ascii(), wanted[n].as_bytes(), "line {n}");
            }
        }
    }
}
