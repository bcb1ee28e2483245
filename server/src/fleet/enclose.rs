//! What is sent along with orders: small blobs that the run begins with, so that a worker need not ask for them one after
//! the other.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use wardian_proto::{Digest, DigestFunction, reapi, wardian};
use wardian_store::BlobStore;

/// Largest blob that is sent along.
const BLOB_BYTES_MAX: u64 = 64 << 10;

/// Bytes of blobs in one message of orders: far below the largest message.
const BYTES_PER_MESSAGE_MAX: u64 = 2 << 20;

/// How long orders wait for what is to be sent along.
const TIME_MAX: Duration = Duration::from_millis(200);

/// Adds to each order the Action, its Command and the root of its input, as far as they are small and can be read soon. What
/// is missing the worker asks for.
pub(super) async fn enclose(blobs: &dyn BlobStore, orders: &mut [wardian::RunOrder]) {
    if orders.is_empty() {
        return;
    }
    // Late orders are worse than orders without them.
    let _ = tokio::time::timeout(TIME_MAX, enclose_all(blobs, orders)).await;
}

async fn enclose_all(blobs: &dyn BlobStore, orders: &mut [wardian::RunOrder]) {
    let mut room = BYTES_PER_MESSAGE_MAX;
    let wanted = orders.iter().map(|order| digest(order, order.action_digest.as_ref())).collect();
    let actions: Vec<_> = add(blobs, orders, wanted, &mut room)
        .await
        .into_iter()
        .map(|bytes| reapi::Action::decode(bytes?).ok())
        .collect();
    let parts: [fn(&reapi::Action) -> Option<&reapi::Digest>; 2] =
        [|action| action.command_digest.as_ref(), |action| action.input_root_digest.as_ref()];
    for part in parts {
        let with_actions = orders.iter().zip(&actions);
        let wanted = with_actions.map(|(order, action)| digest(order, part(action.as_ref()?))).collect();
        add(blobs, orders, wanted, &mut room).await;
    }
}

/// Adds to each order the blob that is wanted for it, and returns those that were added.
async fn add(
    blobs: &dyn BlobStore,
    orders: &mut [wardian::RunOrder],
    wanted: Vec<Option<Digest>>,
    room: &mut u64,
) -> Vec<Option<Bytes>> {
    let mut fits = |digest: &Digest| {
        let fits = digest.size() <= BLOB_BYTES_MAX.min(*room);
        *room -= if fits { digest.size() } else { 0 };
        fits
    };
    let wanted: Vec<_> = wanted.into_iter().map(|digest| digest.filter(&mut fits)).collect();
    let asked: Vec<Digest> = wanted.iter().flatten().copied().collect();
    let mut read = blobs.get_batch(&asked).await.into_iter();
    let mut found = Vec::with_capacity(orders.len());
    for (order, digest) in orders.iter_mut().zip(wanted) {
        let blob = digest.and_then(|_| read.next()?.ok());
        order.blobs.extend(blob.clone());
        found.push(blob);
    }
    found
}

fn digest(order: &wardian::RunOrder, wire: Option<&reapi::Digest>) -> Option<Digest> {
    let function = DigestFunction::ALL.iter().find(|f| i32::from(f.wire()) == order.digest_function)?;
    Digest::from_wire(*function, wire).ok()
}

#[cfg(test)]
mod tests {
    use wardian_store::Upload;
    use wardian_store::backend::MemoryStore;

    use super::*;

    const SHA256: DigestFunction = DigestFunction::Sha256;

    async fn stored(store: &MemoryStore, bytes: Vec<u8>) -> reapi::Digest {
        let digest = SHA256.digest(&bytes);
        store.put(Upload::bytes(digest, bytes)).await.unwrap();
        digest.to_wire()
    }

    fn order(action: &reapi::Digest) -> wardian::RunOrder {
        let digest_function = SHA256.wire().into();
        wardian::RunOrder { action_digest: Some(action.clone()), digest_function, ..Default::default() }
    }

    #[tokio::test]
    async fn what_a_run_begins_with_goes_along_if_it_is_small() {
        let store = MemoryStore::new(1 << 20);
        let root = stored(&store, vec![7; usize::try_from(BLOB_BYTES_MAX).unwrap() + 1]).await;
        let small = stored(&store, b"a command".to_vec()).await;
        let absent = SHA256.digest(b"absent").to_wire();
        let mut actions = Vec::new();
        for (command, root) in [(&small, &root), (&absent, &small), (&small, &small)] {
            let action = reapi::Action {
                command_digest: Some(command.clone()),
                input_root_digest: Some(root.clone()),
                ..Default::default()
            };
            actions.push((stored(&store, action.encode_to_vec()).await, action.encode_to_vec()));
        }
        let mut orders: Vec<_> = actions.iter().map(|(digest, _)| order(digest)).collect();
        orders.insert(1, order(&absent));
        enclose(&store, &mut orders).await;
        let command = || Bytes::from_static(b"a command");
        let action = |number: usize| Bytes::from(actions[number].1.clone());
        let expected = [
            vec![action(0), command()],
            vec![],
            vec![action(1), command()],
            vec![action(2), command(), command()],
        ];
        assert_eq!(orders.into_iter().map(|order| order.blobs).collect::<Vec<_>>(), expected);
    }

    #[tokio::test]
    async fn a_message_has_room_for_so_much_and_no_more() {
        let store = MemoryStore::new(16 << 20);
        let mut orders = Vec::new();
        for number in 0..40 {
            orders.push(order(&stored(&store, vec![number; BLOB_BYTES_MAX as usize]).await));
        }
        enclose(&store, &mut orders).await;
        let with = orders.iter().filter(|order| !order.blobs.is_empty()).count() as u64;
        assert_eq!(with, BYTES_PER_MESSAGE_MAX / BLOB_BYTES_MAX);
    }
}
