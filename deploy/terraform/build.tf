# What cloudbuild.yaml needs: an account that pushes images and rolls them out, and a place for the benches' baseline.

resource "google_service_account" "build" {
  count = var.cloud_build ? 1 : 0

  account_id   = "${var.name}-build"
  display_name = "${var.name}: in whose name Cloud Build builds and rolls out"

  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket" "benches" {
  count = var.cloud_build ? 1 : 0

  name                        = "${var.project}-${var.name}-benches"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  # Old baselines can be looked up.
  versioning {
    enabled = true
  }

  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket_iam_member" "build_keeps_baseline" {
  count = length(google_service_account.build)

  bucket = google_storage_bucket.benches[0].name
  role   = "roles/storage.objectUser"
  member = google_service_account.build[0].member
}

resource "google_artifact_registry_repository_iam_member" "build_pushes" {
  count = length(google_service_account.build)

  repository = google_artifact_registry_repository.images.name
  location   = var.region
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build[0].member
}

resource "google_project_iam_member" "build_logs" {
  count = length(google_service_account.build)

  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.build[0].member
}

resource "google_cloud_run_v2_service_iam_member" "build_rolls_out" {
  count = local.service ? length(google_service_account.build) : 0

  name     = google_cloud_run_v2_service.worker[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.build[0].member
}

resource "google_cloud_run_v2_worker_pool_iam_member" "build_rolls_out" {
  count = local.worker_pool ? length(google_service_account.build) : 0

  name     = google_cloud_run_v2_worker_pool.worker[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.build[0].member
}

resource "google_cloud_run_v2_job_iam_member" "build_rolls_out" {
  count = var.batch == null ? 0 : length(google_service_account.build)

  name     = google_cloud_run_v2_job.batch[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.build[0].member
}

resource "google_cloud_run_v2_job_iam_member" "build_rolls_out_model" {
  count = local.model ? length(google_service_account.build) : 0

  name     = google_cloud_run_v2_job.model[0].name
  location = var.region
  role     = "roles/run.developer"
  member   = google_service_account.build[0].member
}

resource "google_service_account_iam_member" "build_acts_as_models" {
  count = local.model ? length(google_service_account.build) : 0

  service_account_id = google_service_account.models[0].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.build[0].member
}

resource "google_service_account_iam_member" "build_acts_as_worker" {
  count = length(google_service_account.build)

  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.build[0].member
}
