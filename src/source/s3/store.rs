//! One bucket: connecting, listing, fetching; what fails in passing is tried again.

use std::sync::OnceLock;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::meta::region::RegionProviderChain;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials, ProvideCredentials, Region, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_smithy_http_client::tls;

use super::super::{SkipKind, SourceError};
use super::attempts::{Retry, Trouble, causes, cut, too_large, trouble, within};
use super::keys::Listed;
use super::settings::{S3Credentials, S3Settings};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Region where nothing says one.
const FALLBACK_REGION: &str = "us-east-1";

/// A bucket and how to reach it.
#[derive(Debug)]
pub(super) struct Store {
    client: Client,
    bucket: String,
    pub(super) settings: S3Settings,
}

/// One page of a listing.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) objects: Vec<Listed>,
    /// What the next page is asked with; `None` for the last page.
    pub(super) token: Option<String>,
}

/// Why an object is not there.
#[derive(Debug)]
pub(super) enum Failure {
    /// Something about this object alone.
    Object(SkipKind, String),
    /// The bucket as a whole.
    Bucket(SourceError),
}

impl Store {
    /// Finds credentials and region; sends nothing to the store itself.
    ///
    /// # Errors
    /// When there are no credentials.
    pub(super) async fn connect(bucket: &str, settings: &S3Settings) -> Result<Self, SourceError> {
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http_client())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .region(region(settings));
        if let Some(endpoint) = &settings.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        match &settings.credentials {
            S3Credentials::Chain => {}
            S3Credentials::Anonymous => loader = loader.no_credentials(),
            S3Credentials::Keys {
                access_key_id,
                secret_access_key,
                session_token,
            } => {
                let token = session_token
                    .as_ref()
                    .map(|token| token.reveal().to_string());
                let secret = secret_access_key.reveal();
                let keys = Credentials::new(access_key_id, secret, token, None, "mtmc");
                loader = loader.credentials_provider(keys);
            }
        }
        let config = loader.load().await;
        if let Some(provider) = config.credentials_provider() {
            // Asked here, so that nobody waits for retries of a request that cannot be signed.
            let found = provider.provide_credentials().await;
            found.map_err(|error| SourceError::Refused {
                address: format!("s3://{bucket}"),
                reason: format!("no credentials: {}", causes(&error)),
            })?;
        }
        let path_style = settings
            .path_style
            .unwrap_or_else(|| config.endpoint_url().is_some());
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(settings.timeout.min(CONNECT_TIMEOUT))
            .build();
        let own = aws_sdk_s3::config::Builder::from(&config)
            .force_path_style(path_style)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        Ok(Self {
            client: Client::from_conf(own),
            bucket: bucket.to_string(),
            settings: settings.clone(),
        })
    }

    pub(super) fn bucket(&self) -> &str {
        &self.bucket
    }

    /// One page of the keys that start with `prefix`, without those of deeper folders.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] after all attempts, [`SourceError::Refused`] when more of
    /// them would not help.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page, SourceError> {
        let mut retry = Retry::new(&self.settings);
        loop {
            let attempt = self.list_once(prefix, after, token, None);
            match within(retry.time_left(), attempt).await {
                Ok(page) => return Ok(page),
                Err(Trouble::Passing(reason, wait)) => {
                    if !retry.pause(wait, &reason).await {
                        return Err(self.unreachable(&reason));
                    }
                }
                Err(Trouble::Object(_, reason) | Trouble::Refused(reason)) => {
                    return Err(self.refused(reason));
                }
            }
        }
    }

    async fn list_once(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
        most: Option<i32>,
    ) -> Result<Page, Trouble> {
        let listing = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .delimiter("/")
            .set_start_after(after.map(str::to_string))
            .set_continuation_token(token.map(str::to_string))
            .set_max_keys(most)
            .send()
            .await
            .map_err(|error| trouble(&error))?;
        let mut objects = Vec::new();
        for object in listing.contents() {
            let Some(key) = object.key() else { continue };
            objects.push(Listed {
                key: key.to_string(),
                size: object.size().and_then(|size| u64::try_from(size).ok()),
            });
        }
        let more = listing.is_truncated() == Some(true);
        let token = listing.next_continuation_token.filter(|_| more);
        if more && token.is_none() {
            let reason = "the listing breaks off without saying how it goes on";
            return Err(Trouble::Refused(reason.to_string()));
        }
        Ok(Page { objects, token })
    }

    /// All bytes of an object, at most `limit`.
    ///
    /// # Errors
    /// When it is missing, too large or refused; after all attempts, which of the two is lost,
    /// the object or the bucket, is told by asking the bucket for something else.
    pub(super) async fn get(&self, key: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut retry = Retry::new(&self.settings);
        loop {
            match within(retry.time_left(), self.get_once(key, limit)).await {
                Ok(bytes) => return Ok(bytes),
                Err(Trouble::Passing(reason, wait)) => {
                    if !retry.pause(wait, &reason).await {
                        return Err(self.lost(reason).await);
                    }
                }
                Err(Trouble::Object(kind, reason)) => return Err(Failure::Object(kind, reason)),
                Err(Trouble::Refused(reason)) => return Err(Failure::Bucket(self.refused(reason))),
            }
        }
    }

    async fn get_once(&self, key: &str, limit: u64) -> Result<Vec<u8>, Trouble> {
        let mut object = self.request(key, None).await?;
        let promised = length(&object);
        if promised.is_some_and(|length| length > limit) {
            return Err(Trouble::Object(
                SkipKind::TooLarge,
                too_large(promised, limit),
            ));
        }
        let mut bytes = Vec::new();
        while let Some(part) = object.body.next().await {
            let part = part.map_err(|error| cut(&error))?;
            if (bytes.len() + part.len()) as u64 > limit {
                return Err(Trouble::Object(SkipKind::TooLarge, too_large(None, limit)));
            }
            bytes.extend_from_slice(&part);
        }
        match promised {
            Some(length) if length != bytes.len() as u64 => Err(Trouble::Passing(
                format!("{} of {length} bytes came", bytes.len()),
                None,
            )),
            _ => Ok(bytes),
        }
    }

    /// Asks for an object, or for what `from` leaves of it: first byte, and the tag of the
    /// version that the bytes before came from.
    pub(super) async fn request(
        &self,
        key: &str,
        from: Option<(u64, Option<&str>)>,
    ) -> Result<GetObjectOutput, Trouble> {
        let mut request = self.client.get_object().bucket(&self.bucket).key(key);
        if let Some((first, tag)) = from {
            request = request
                .range(format!("bytes={first}-"))
                .set_if_match(tag.map(str::to_string));
        }
        request.send().await.map_err(|error| trouble(&error))
    }

    /// Says whether an object that cannot be had is lost alone or with its bucket.
    pub(super) async fn lost(&self, reason: String) -> Failure {
        let probe = self.list_once("", None, None, Some(1));
        match within(self.settings.timeout, probe).await {
            Ok(_) => Failure::Object(SkipKind::Unavailable, reason),
            Err(Trouble::Passing(..)) => Failure::Bucket(self.unreachable(&reason)),
            Err(Trouble::Object(_, why) | Trouble::Refused(why)) => {
                Failure::Bucket(self.refused(why))
            }
        }
    }

    fn unreachable(&self, reason: &str) -> SourceError {
        SourceError::Unreachable {
            address: format!("s3://{}", self.bucket),
            reason: reason.to_string(),
        }
    }

    pub(super) fn refused(&self, reason: String) -> SourceError {
        SourceError::Refused {
            address: format!("s3://{}", self.bucket),
            reason,
        }
    }
}

/// One pool of connections for the process.
fn http_client() -> SharedHttpClient {
    static CLIENT: OnceLock<SharedHttpClient> = OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https()
    });
    client.clone()
}

/// A machine that has its own endpoint is rarely one that could ask Amazon for its region.
fn region(settings: &S3Settings) -> RegionProviderChain {
    if let Some(region) = &settings.region {
        return RegionProviderChain::first_try(Region::new(region.clone()));
    }
    if settings.endpoint.is_some() {
        return RegionProviderChain::first_try(Region::new(FALLBACK_REGION));
    }
    RegionProviderChain::default_provider().or_else(Region::new(FALLBACK_REGION))
}

/// Number of bytes that an answer promises.
pub(super) fn length(object: &GetObjectOutput) -> Option<u64> {
    u64::try_from(object.content_length()?).ok()
}
