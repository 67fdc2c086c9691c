//! `s3s-fs` with the error codes of S3 where its own differ.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput, PutObjectInput, PutObjectOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
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

#[async_trait::async_trait]
impl S3 for ConformingS3 {
    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.bucket_is_there(&request.input.bucket)?;
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.bucket_is_there(&request.input.bucket)?;
        self.files.put_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.bucket_is_there(&request.input.bucket)?;
        self.files.create_multipart_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.upload_is_there(&request.input.upload_id)?;
        self.files.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.upload_is_there(&request.input.upload_id)?;
        self.files.complete_multipart_upload(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.upload_is_there(&request.input.upload_id)?;
        self.files.abort_multipart_upload(request).await
    }
}
