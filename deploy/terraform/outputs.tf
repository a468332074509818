# What whoever publishes jobs, or calls the service, needs to know.

output "service_url" {
  description = "The service's address, which is also the audience of tokens."
  value       = local.service ? local.service_url : null
}

output "jobs_topic" {
  description = "Publish jobs here."
  value       = google_pubsub_topic.jobs.id
}

output "results_topic" {
  description = "Manifests of finished jobs come from here."
  value       = google_pubsub_topic.results.id
}

output "failed_topic" {
  description = "Records of jobs that failed for good come from here."
  value       = google_pubsub_topic.failed.id
}

output "progress_topic" {
  description = "News of running jobs come from here."
  value       = one(google_pubsub_topic.progress[*].id)
}

output "dead_letter_subscription" {
  description = "Where dead letters are kept for 31 days."
  value       = google_pubsub_subscription.kept["dead-letters"].id
}

output "base_bucket" {
  description = "Bucket of the base pictures."
  value       = local.base_bucket
}

output "palette_bucket" {
  description = "Bucket of the variations."
  value       = local.palette_bucket
}

output "model_bucket" {
  description = "Put models here; the job `NAME-model` puts what it builds under built/."
  value       = one(local.model_buckets)
}

output "image_repository" {
  description = "Push images here, as `<this>/concept-worker`."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "worker_account" {
  description = "The account that the worker runs as."
  value       = google_service_account.worker.email
}

output "cdn_address" {
  description = "Let the CDN's host name point here (an A record)."
  value       = one(google_compute_global_address.cdn[*].address)
}

output "bench_bucket" {
  description = "For cloudbuild.yaml's _BENCH_BUCKET."
  value       = one(google_storage_bucket.benches[*].name)
}
