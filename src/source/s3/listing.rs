//! Which images an address names: the folder, the sequence or the beginning of keys it stands for,
//! and their keys one after the other.

use super::super::SourceError;
use super::super::folder::{MAX_SEQINFO_BYTES, Seqinfo};
use super::address::{Address, Named};
use super::keys::{Keys, Listed, Numbered, Position};
use super::settings::S3Settings;
use super::store::{Failure, Store};

/// A listing that was begun.
pub(super) struct Listing {
    pub(super) prefix: String,
    pub(super) keys: Keys,
    /// What the next page is asked with.
    token: Option<String>,
    /// The key to begin behind.
    after: Option<String>,
}

/// What is known of the images before they are fetched.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) listing: Listing,
    pub(super) seqinfo: Option<Seqinfo>,
}

/// Connects, finds the images and passes over those before frame `first`.
pub(super) async fn open(
    address: &Address,
    settings: &S3Settings,
    first: u64,
) -> Result<Opened, SourceError> {
    let store = Store::connect(&address.bucket, settings).await?;
    if address.named() == Named::Image {
        return Ok(Opened {
            listing: Listing::single(&address.key),
            store,
            seqinfo: None,
        });
    }
    let begin = Position::default();
    let folder = address.folder();
    let mut listing = Listing::behind(&store, &folder, &begin);
    let (filled, seqinfo) = tokio::join!(listing.fill(&store), seqinfo(&store, address));
    filled?;
    let (seqinfo, own) = seqinfo?;
    if let Some(told) = seqinfo
        .as_ref()
        .filter(|told| own && told.is_plain_folder())
    {
        // The sequence's own folder: its images lie one deeper, unless they lie right here.
        let deeper = format!("{folder}{}/", told.image_folder);
        let mut images = Listing::behind(&store, &deeper, &begin);
        images.fill(&store).await?;
        if !images.keys.is_empty() {
            listing = images;
        }
    }
    if listing.keys.is_empty() && !address.key.is_empty() && !address.key.ends_with('/') {
        // No folder of this name, but keys may begin with it.
        listing = Listing::behind(&store, &address.key, &begin);
        listing.fill(&store).await?;
    }
    listing.pass_over(&store, first.saturating_sub(1)).await?;
    Ok(Opened {
        store,
        listing,
        seqinfo,
    })
}

/// What `seqinfo.ini` tells, and whether it is the folder's own or lies beside it.
async fn seqinfo(store: &Store, address: &Address) -> Result<(Option<Seqinfo>, bool), SourceError> {
    let folder = address.folder();
    if let Some(own) = read_seqinfo(store, &folder).await? {
        return Ok((Some(own), true));
    }
    if folder.is_empty() {
        return Ok((None, false));
    }
    let beside = read_seqinfo(store, &address.parent()).await?;
    let beside = beside.filter(|told| told.image_folder == address.name());
    Ok((beside, false))
}

async fn read_seqinfo(store: &Store, folder: &str) -> Result<Option<Seqinfo>, SourceError> {
    let key = format!("{folder}seqinfo.ini");
    match store.get(&key, MAX_SEQINFO_BYTES).await {
        Ok(bytes) => Ok(Some(Seqinfo::parse(&String::from_utf8_lossy(&bytes)))),
        Err(Failure::Object(..)) => Ok(None),
        Err(Failure::Bucket(error)) => Err(error),
    }
}

impl Listing {
    pub(super) fn behind(store: &Store, prefix: &str, position: &Position) -> Self {
        let after = position.key.clone().filter(|_| position.in_listing_order);
        Self {
            prefix: prefix.to_string(),
            keys: Keys::behind(position, store.settings.sort_window),
            token: None,
            after,
        }
    }

    /// A key that is known without listing.
    fn single(key: &str) -> Self {
        let mut keys = Keys::behind(&Position::default(), 1);
        let listed = Listed {
            key: key.to_string(),
            size: None,
        };
        keys.push(vec![listed], true);
        Self {
            prefix: key.to_string(),
            keys,
            token: None,
            after: None,
        }
    }

    /// Reads pages until the next key is known.
    pub(super) async fn fill(&mut self, store: &Store) -> Result<(), SourceError> {
        while self.keys.wants_page() {
            let after = self.after.as_deref();
            let page = store
                .list(&self.prefix, after, self.token.as_deref())
                .await?;
            self.keys.push(page.objects, page.token.is_none());
            self.token = page.token;
        }
        Ok(())
    }

    pub(super) async fn next(&mut self, store: &Store) -> Result<Option<Numbered>, SourceError> {
        self.fill(store).await?;
        let number = self.keys.position().number;
        self.keys.pop().map_err(|reason| SourceError::Broken {
            path: format!("s3://{}/{}", store.bucket(), self.prefix).into(),
            frame: number + 1,
            reason,
        })
    }

    async fn pass_over(&mut self, store: &Store, count: u64) -> Result<(), SourceError> {
        for _ in 0..count {
            if self.next(store).await?.is_none() {
                break;
            }
        }
        self.fill(store).await
    }
}
