//! `s3s-fs` with the error codes of S3 where its own differ.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use s3s::{S3, S3Request, S3Response, S3Result, dto, s3_error};
use s3s_fs::FileSystem;

pub(crate) struct ConformingS3 {
    files: FileSystem,
    dir: PathBuf,
}

impl ConformingS3 {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let files =
            FileSystem::new(dir).map_err(|error| anyhow!("open {}: {error:?}", dir.display()))?;
        Ok(Self {
            files,
            dir: dir.to_owned(),
        })
    }

    /// `NoSuchBucket`: `s3s-fs` says `NoSuchKey`, or makes the bucket.
    fn bucket_is_there(&self, bucket: &str) -> S3Result<()> {
        if self.dir.join(bucket).is_dir() {
            return Ok(());
        }
        Err(s3_error!(NoSuchBucket))
    }

    /// `NoSuchUpload`: `s3s-fs` says `AccessDenied`.
    fn upload_is_there(&self, upload: &str) -> S3Result<()> {
        if self.dir.join(format!(".upload-{upload}.json")).is_file() {
            return Ok(());
        }
        Err(s3_error!(NoSuchUpload))
    }
}

/// Forwards each call to `s3s-fs`, after its check.
macro_rules! conforming_s3 {
    ($($method:ident: $input:ident -> $output:ident $(, $check:ident($field:ident))?;)*) => {
        #[async_trait::async_trait]
        impl S3 for ConformingS3 {$(
            async fn $method(
                &self,
                request: S3Request<dto::$input>,
            ) -> S3Result<S3Response<dto::$output>> {
                $(self.$check(&request.input.$field)?;)?
                self.files.$method(request).await
            }
        )*}
    };
}

conforming_s3! {
    get_object: GetObjectInput -> GetObjectOutput, bucket_is_there(bucket);
    head_object: HeadObjectInput -> HeadObjectOutput;
    put_object: PutObjectInput -> PutObjectOutput, bucket_is_there(bucket);
    delete_object: DeleteObjectInput -> DeleteObjectOutput;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput, bucket_is_there(bucket);
    upload_part: UploadPartInput -> UploadPartOutput, upload_is_there(upload_id);
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput, upload_is_there(upload_id);
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput, upload_is_there(upload_id);
}
