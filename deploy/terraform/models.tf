# The model for background removal: a bucket that every instance sees as /models, an L4 for each instance where `gpu` says so,
# and a job that builds beforehand what would otherwise be built while somebody waits.

locals {
  model = var.model != null
  gpu   = var.gpu != null

  models_folder = "/models"
  # At most one, as for_each wants it.
  model_buckets = local.model ? [var.model_bucket == null ? google_storage_bucket.models[0].name : var.model_bucket] : []
  accelerators  = local.gpu ? ["nvidia-l4"] : []

  # Cloud Run gives an L4 only to instances of 4 processors and 16 GiB or more.
  cpu           = local.gpu ? max(var.cpu, 4) : var.cpu
  memory_mib    = local.gpu ? max(var.memory_mib, 16384) : var.memory_mib
  max_instances = local.gpu ? min(var.max_instances, var.gpu.max_instances) : var.max_instances
  limits = merge(
    { cpu = tostring(local.cpu), memory = "${local.memory_mib}Mi" },
    local.gpu ? { "nvidia.com/gpu" = "1" } : {},
  )
  zonal_redundancy_disabled = local.gpu ? !var.gpu.zonal_redundancy : null

  # A path in the mounted bucket, not gs://: what an instance fetches lies in its memory, twice.
  settings_model = merge(
    !local.model ? {} : {
      CONCEPT_MODEL      = var.model.name
      CONCEPT_MODEL_PATH = "${local.models_folder}/${var.model.object}"
      # Built by the job below; the service only reads it.
      CONCEPT_MODEL_CACHE = "${local.models_folder}/built"
      # Afterwards a processor that is given only while requests run would load it, on the first caller's time.
      CONCEPT_MODEL_BEFORE_READY = "true"
    },
    !local.model ? {} : var.model.sha256 == null ? {} : { CONCEPT_MODEL_SHA256 = var.model.sha256 },
    !local.gpu ? {} : {
      CONCEPT_EXECUTION_PROVIDERS = "tensorrt,cuda"
      CONCEPT_REQUIRE_GPU         = "true"
    },
  )
}

resource "google_storage_bucket" "models" {
  count = local.model && var.model_bucket == null ? 1 : 0

  name                        = "${var.project}-${var.name}-models"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  # A model that was replaced can be had back.
  versioning {
    enabled = true
  }

  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket_iam_member" "worker_reads_models" {
  count = length(local.model_buckets)

  bucket = local.model_buckets[0]
  role   = "roles/storage.objectViewer"
  member = local.worker
}

# ---- what is built beforehand: `gcloud run jobs execute NAME-model`, after every change of model, image or GPU ----

# Of its own, so that no instance which reads strangers' pictures can replace the model.
resource "google_service_account" "models" {
  count = length(local.model_buckets)

  account_id   = "${var.name}-models"
  display_name = "${var.name}: builds what models need"

  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket_iam_member" "models_are_built" {
  count = length(local.model_buckets)

  bucket = local.model_buckets[0]
  role   = "roles/storage.objectUser"
  member = google_service_account.models[0].member
}

resource "google_cloud_run_v2_job" "model" {
  count = length(local.model_buckets)

  name                = "${var.name}-model"
  location            = var.region
  deletion_protection = var.deletion_protection
  labels              = local.labels

  template {
    task_count = 1
    labels     = local.labels

    template {
      service_account       = google_service_account.models[0].email
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
      timeout               = "3600s"
      max_retries           = 0
      # A job has no zonal redundancy to give up, and must say so.
      gpu_zonal_redundancy_disabled = local.gpu ? true : null

      dynamic "node_selector" {
        for_each = local.accelerators
        content {
          accelerator = node_selector.value
        }
      }

      containers {
        image = var.image
        args  = ["model", "build"]

        resources {
          limits = local.limits
        }

        dynamic "env" {
          for_each = merge({ GOOGLE_CLOUD_PROJECT = var.project }, local.settings_model)
          content {
            name  = env.key
            value = env.value
          }
        }

        volume_mounts {
          name       = "models"
          mount_path = local.models_folder
        }
      }

      volumes {
        name = "models"
        gcs {
          bucket    = local.model_buckets[0]
          read_only = false
        }
      }
    }
  }

  lifecycle {
    # Images are rolled out by cloudbuild.yaml.
    ignore_changes = [client, client_version, template[0].template[0].containers[0].image]
  }

  depends_on = [google_storage_bucket_iam_member.models_are_built]
}
