//! One ByteStream write: the messages are made when the connection asks for them.
//!
//! `finish_write` goes out only with the last bytes of an upload that was verified on this side. When
//! the upload fails, the messages end without it, which leaves the write unfinished for the server.

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::oneshot;
use tonic::{Code, Status};
use wardian_proto::WriteName;
use wardian_proto::bytestream::WriteRequest;
use wardian_proto::bytestream::byte_stream_client::ByteStreamClient;

use super::{Connection, wire_size};
use crate::{Step, StoreError, Upload};

/// Uploads one blob. A failure of the upload itself comes out as it is, not as the server saw it.
pub(super) async fn send(
    mut client: ByteStreamClient<Connection>,
    name: WriteName,
    upload: Upload,
    write_bytes_max: usize,
) -> Result<(), StoreError> {
    let size = wire_size(upload.digest().size());
    // The messages are polled inside of the connection, so their failure needs a way back.
    let (failed, mut failure) = oneshot::channel();
    let messages = Messages {
        name: name.to_string(),
        upload,
        offset: 0,
        held: Bytes::new(),
        write_bytes_max: write_bytes_max.max(1),
        failed,
    };
    let answer = tokio::select! {
        biased;
        // The sender goes away silently after the last message; then only the answer is left.
        Ok(error) = &mut failure => return Err(error),
        answer = client.write(messages.into_stream()) => answer,
    };
    // The answer to an unfinished write may have been faster than the reason for it.
    if let Ok(error) = failure.try_recv() {
        return Err(error);
    }
    match answer.map_err(StoreError::Remote)?.into_inner().committed_size {
        committed if committed == size => Ok(()),
        committed => {
            let text = format!("server committed {committed} of {size} bytes of {name}");
            Err(StoreError::Remote(Status::new(Code::DataLoss, text)))
        }
    }
}

/// Turns an upload into messages; the newest bytes are held back until it is known what follows.
struct Messages {
    name: String,
    upload: Upload,
    offset: i64,
    held: Bytes,
    write_bytes_max: usize,
    failed: oneshot::Sender<StoreError>,
}

impl Messages {
    fn into_stream(self) -> impl Stream<Item = WriteRequest> + Send + 'static {
        futures::stream::unfold(Some(self), |messages| async move { messages?.next().await })
    }

    /// Returns the next message, and itself when more follow; nothing when the upload failed.
    async fn next(mut self) -> Option<(WriteRequest, Option<Self>)> {
        loop {
            if self.held.len() > self.write_bytes_max {
                let data = self.held.split_to(self.write_bytes_max);
                return Some((self.message(data, false), Some(self)));
            }
            match self.upload.next().await {
                Ok(Step::Data(piece)) if self.held.is_empty() => self.held = piece,
                Ok(Step::Data(piece)) if self.held.len() + piece.len() <= self.write_bytes_max => {
                    // Keeps its buffer when nobody else has it, so this does not copy again and again.
                    let mut joined = BytesMut::from(std::mem::take(&mut self.held));
                    joined.extend_from_slice(&piece);
                    self.held = joined.freeze();
                }
                Ok(Step::Data(piece)) => {
                    let data = std::mem::replace(&mut self.held, piece);
                    return Some((self.message(data, false), Some(self)));
                }
                Ok(Step::Done(_)) => {
                    let data = std::mem::take(&mut self.held);
                    return Some((self.message(data, true), None));
                }
                Err(error) => {
                    // Nobody listens any more when the server answered first; its answer stands then.
                    let _ = self.failed.send(error);
                    return None;
                }
            }
        }
    }

    fn message(&mut self, data: Bytes, finish_write: bool) -> WriteRequest {
        // The name is needed in the first message only; the rest can be shorter.
        let resource_name = std::mem::take(&mut self.name);
        let write_offset = self.offset;
        self.offset += i64::try_from(data.len()).expect("a message is smaller than i64::MAX");
        WriteRequest { resource_name, write_offset, finish_write, data }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use wardian_proto::DigestFunction;

    use super::*;

    /// The messages for a blob that arrives in pieces, and the failure that ended them.
    async fn messages(blob: &[u8], pieces: &[&[u8]]) -> (Vec<WriteRequest>, Option<StoreError>) {
        let digest = DigestFunction::Sha256.digest(blob);
        let pieces: Vec<_> = pieces.iter().map(|p| Ok(Bytes::copy_from_slice(p))).collect();
        let upload = Upload::stream(digest, futures::stream::iter(pieces));
        let (failed, mut failure) = oneshot::channel();
        let (name, held) = ("name".to_owned(), Bytes::new());
        let messages = Messages { name, upload, offset: 0, held, write_bytes_max: 4, failed };
        (messages.into_stream().collect().await, failure.try_recv().ok())
    }

    #[track_caller]
    fn check(got: &[WriteRequest], expected: &[&str]) {
        let text: Vec<_> = got.iter().map(|m| String::from_utf8(m.data.to_vec()).unwrap()).collect();
        assert_eq!(text, expected);
        let mut offset = 0;
        for (at, message) in got.iter().enumerate() {
            assert_eq!(message.write_offset, offset);
            assert_eq!(message.finish_write, at + 1 == got.len());
            assert_eq!(message.resource_name, if at == 0 { "name" } else { "" });
            offset += i64::try_from(message.data.len()).unwrap();
        }
    }

    #[tokio::test]
    async fn pieces_are_joined_and_split_to_fit() {
        check(&messages(b"abcdefghij", &[b"abcdefghij"]).await.0, &["abcd", "efgh", "ij"]);
        check(&messages(b"abcdefgh", &[b"abcdefgh"]).await.0, &["abcd", "efgh"]);
        check(&messages(b"abcdef", &[b"a", b"", b"b", b"c", b"def"]).await.0, &["abc", "def"]);
        check(&messages(b"", &[]).await.0, &[""]);
    }

    #[tokio::test]
    async fn wrong_bytes_are_never_finished() {
        let (sent, failure) = messages(b"abcdef", &[b"abcdeX"]).await;
        assert!(sent.iter().all(|message| !message.finish_write));
        assert!(matches!(failure, Some(StoreError::Mismatch { .. })));
        let (sent, failure) = messages(b"abcdef", &[b"abcdef", b"g"]).await;
        assert!(sent.iter().all(|message| !message.finish_write));
        assert!(matches!(failure, Some(StoreError::Overrun(_))));
    }
}
