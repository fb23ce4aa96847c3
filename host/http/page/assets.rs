//! Style and script of the page. The address contains the digest of the file, so a browser may
//! cache the file for ever and still loads a new version at once.

use std::sync::LazyLock;

use axum::http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::digest::Digest;

/// A file that is compiled into this program.
pub struct PageAsset {
    text: &'static str,
    content_type: HeaderValue,
    digest: String,
    pub address: String,
}

pub static STYLE: LazyLock<PageAsset> =
    LazyLock::new(|| PageAsset::new("/page/style.css", "text/css; charset=utf-8", include_str!("style.css")));

pub static SCRIPT: LazyLock<PageAsset> =
    LazyLock::new(|| PageAsset::new("/page/script.js", "text/javascript; charset=utf-8", include_str!("script.js")));

/// `GET /page/style.css`
pub async fn style(uri: Uri, headers: HeaderMap) -> Response {
    STYLE.answer(&uri, &headers)
}

/// `GET /page/script.js`
pub async fn script(uri: Uri, headers: HeaderMap) -> Response {
    SCRIPT.answer(&uri, &headers)
}

impl PageAsset {
    fn new(path: &str, content_type: &'static str, text: &'static str) -> Self {
        let digest = Digest::of(text.as_bytes()).to_string();
        let address = format!("{path}?{digest}");
        Self { text, content_type: HeaderValue::from_static(content_type), digest, address }
    }

    fn answer(&self, uri: &Uri, headers: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", self.digest);
        // An address without the digest, or with an old one, will have other content after an
        // update.
        let lasts = uri.query() == Some(&self.digest);
        let caching = if lasts { "private, max-age=31536000, immutable" } else { "no-cache" };
        let is_known = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|known| known.trim().trim_start_matches("W/") == tag);
        let said: [(HeaderName, HeaderValue); 3] = [
            (CONTENT_TYPE, self.content_type.clone()),
            (CACHE_CONTROL, HeaderValue::from_static(caching)),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ];
        if is_known {
            (StatusCode::NOT_MODIFIED, said, [(ETAG, tag)]).into_response()
        } else {
            (said, [(ETAG, tag)], self.text).into_response()
        }
    }
}
