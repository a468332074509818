# The usual deployment, planned and applied against a mocked provider: nothing is contacted.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789" }
  }
  mock_resource "google_service_account" {
    defaults = {
      name   = "projects/test/serviceAccounts/mock@test.iam.gserviceaccount.com"
      email  = "mock@test.iam.gserviceaccount.com"
      member = "serviceAccount:mock@test.iam.gserviceaccount.com"
    }
  }
}

override_resource {
  target = google_service_account.push[0]
  values = {
    name   = "projects/test/serviceAccounts/push@test.iam.gserviceaccount.com"
    email  = "push@test.iam.gserviceaccount.com"
    member = "serviceAccount:push@test.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_service_account.worker
  values = {
    name   = "projects/test/serviceAccounts/run@test.iam.gserviceaccount.com"
    email  = "run@test.iam.gserviceaccount.com"
    member = "serviceAccount:run@test.iam.gserviceaccount.com"
  }
}

variables {
  project = "test"
  region  = "europe-west1"
  image   = "europe-west1-docker.pkg.dev/test/concept-worker/concept-worker@sha256:0"
}

run "pushes_reach_the_service_with_a_token_that_it_accepts" {
  assert {
    condition     = google_pubsub_subscription.push[0].push_config[0].push_endpoint == "https://concept-worker-123456789.europe-west1.run.app/pubsub/push"
    error_message = "the push endpoint is not the service's address"
  }
  assert {
    condition = alltrue([
      google_pubsub_subscription.push[0].push_config[0].oidc_token[0].audience == "https://concept-worker-123456789.europe-west1.run.app",
      contains(google_cloud_run_v2_service.worker[0].custom_audiences, google_pubsub_subscription.push[0].push_config[0].oidc_token[0].audience),
      one([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_PUSH_AUDIENCE"]) == google_pubsub_subscription.push[0].push_config[0].oidc_token[0].audience,
    ])
    error_message = "subscription, Cloud Run and worker must agree on the audience, exactly"
  }
  assert {
    condition = alltrue([
      contains(split(",", one([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_PUSH_SERVICE_ACCOUNT"])), "push@test.iam.gserviceaccount.com"),
      google_cloud_run_v2_service_iam_member.callers["push"].role == "roles/run.invoker",
      google_cloud_run_v2_service_iam_member.callers["push"].member == "serviceAccount:push@test.iam.gserviceaccount.com",
    ])
    error_message = "both Cloud Run and the worker must know the account that pushes"
  }
  assert {
    condition = alltrue([
      one([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_PUSH_AUTH"]) == "platform",
      google_cloud_run_v2_service.worker[0].invoker_iam_disabled != true,
    ])
    error_message = "`platform` is sound only where Cloud Run checks the caller"
  }
  assert {
    condition     = alltrue([for member in google_cloud_run_v2_service_iam_member.callers : !contains(["allUsers", "allAuthenticatedUsers"], member.member)])
    error_message = "nobody may call without an account"
  }
}

run "messages_are_retried_then_kept" {
  assert {
    condition     = google_pubsub_subscription.push[0].ack_deadline_seconds == 600
    error_message = "the ack deadline is the time limit of a job"
  }
  assert {
    condition     = tonumber(trimsuffix(google_cloud_run_v2_service.worker[0].template[0].timeout, "s")) >= google_pubsub_subscription.push[0].ack_deadline_seconds
    error_message = "Cloud Run must not cut off what Pub/Sub still waits for"
  }
  assert {
    condition = alltrue([
      google_pubsub_subscription.push[0].retry_policy[0].minimum_backoff == "10s",
      google_pubsub_subscription.push[0].retry_policy[0].maximum_backoff == "600s",
    ])
    error_message = "retries back off from 10 s to 600 s"
  }
  assert {
    condition = alltrue([
      google_pubsub_subscription.push[0].dead_letter_policy[0].max_delivery_attempts == 5,
      one([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_MAX_DELIVERY_ATTEMPTS"]) == "5",
    ])
    error_message = "Pub/Sub and the worker must count to the same number"
  }
  assert {
    condition = alltrue([
      google_pubsub_topic_iam_member.pubsub_buries.member == "serviceAccount:service-123456789@gcp-sa-pubsub.iam.gserviceaccount.com",
      google_pubsub_topic_iam_member.pubsub_buries.role == "roles/pubsub.publisher",
      google_pubsub_subscription_iam_member.pubsub_takes.member == "serviceAccount:service-123456789@gcp-sa-pubsub.iam.gserviceaccount.com",
      google_pubsub_subscription_iam_member.pubsub_takes.role == "roles/pubsub.subscriber",
      google_pubsub_subscription_iam_member.pubsub_takes.subscription == "concept-worker-push",
    ])
    error_message = "without both rights Pub/Sub drops no dead letter, and redelivers for ever"
  }
  assert {
    condition     = google_pubsub_subscription.kept["dead-letters"].topic == google_pubsub_topic.dead_letters.id && google_pubsub_subscription.kept["dead-letters"].expiration_policy[0].ttl == ""
    error_message = "dead letters need a subscription that stays"
  }
}

run "the_worker_has_the_rights_it_needs_and_no_others" {
  assert {
    condition = alltrue([
      google_storage_bucket_iam_member.worker_reads_bases.role == "roles/storage.objectViewer",
      google_storage_bucket_iam_member.worker_reads_bases.bucket == "test-concept-worker-bases",
      google_storage_bucket_iam_member.worker_writes_variations.role == "roles/storage.objectUser",
      google_storage_bucket_iam_member.worker_writes_variations.bucket == "test-concept-worker-variations",
    ])
    error_message = "bases are read, variations are written"
  }
  assert {
    condition     = length(google_service_account_iam_member.worker_signs) == 0
    error_message = "no signing where no links are signed"
  }
  assert {
    condition     = google_cloud_run_v2_service.worker[0].template[0].service_account == "run@test.iam.gserviceaccount.com"
    error_message = "the worker runs as an account of its own"
  }
  assert {
    condition = alltrue([
      for bucket in [google_storage_bucket.bases[0], google_storage_bucket.variations[0]] :
      bucket.uniform_bucket_level_access && bucket.public_access_prevention == "enforced"
    ])
    error_message = "buckets are closed"
  }
}

run "instances_are_probed_sized_and_billed_as_the_worker_expects" {
  assert {
    condition = alltrue([
      google_cloud_run_v2_service.worker[0].template[0].containers[0].startup_probe[0].http_get[0].path == "/ready",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].liveness_probe[0].http_get[0].path == "/health",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].limits["memory"] == "2048Mi",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].limits["cpu"] == "2",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].cpu_idle,
      google_cloud_run_v2_service.worker[0].template[0].execution_environment == "EXECUTION_ENVIRONMENT_GEN2",
    ])
    error_message = "probes, size or billing differ"
  }
  assert {
    condition = alltrue([
      for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env :
      strcontains(file("${path.module}/../../docs/configuration.md"), "| `${env.name}` |") if startswith(env.name, "CONCEPT_")
    ])
    error_message = "a variable is set that the worker does not know"
  }
}

run "the_number_of_warm_instances_follows_the_hours" {
  assert {
    condition = alltrue([
      for job in google_cloud_scheduler_job.warm_instances :
      job.http_target[0].http_method == "PATCH" &&
      job.http_target[0].uri == "https://run.googleapis.com/v2/projects/test/locations/europe-west1/services/concept-worker?update_mask=scaling.minInstanceCount" &&
      length(job.http_target[0].oauth_token) == 1
    ])
    error_message = "the Run Admin API takes a PATCH with an OAuth token"
  }
  assert {
    condition = alltrue([
      jsondecode(base64decode(google_cloud_scheduler_job.warm_instances["begin"].http_target[0].body)).scaling.minInstanceCount == 1,
      jsondecode(base64decode(google_cloud_scheduler_job.warm_instances["end"].http_target[0].body)).scaling.minInstanceCount == 0,
    ])
    error_message = "one instance in the hours, none outside"
  }
  assert {
    condition     = google_cloud_run_v2_service.worker[0].template[0].scaling[0].min_instance_count == 0
    error_message = "a minimum of the revision would stay when the schedule lowers the service's"
  }
  assert {
    condition = alltrue([
      google_cloud_scheduler_job.warm_up[0].http_target[0].uri == "https://concept-worker-123456789.europe-west1.run.app/warmup",
      google_cloud_scheduler_job.warm_up[0].http_target[0].oidc_token[0].audience == "https://concept-worker-123456789.europe-west1.run.app",
    ])
    error_message = "the warm-up needs a token for the service"
  }
}

run "every_alert_can_fire_and_leads_to_its_page_in_the_runbook" {
  assert {
    condition     = alltrue([for alert in local.alerts : strcontains(file("${path.module}/../../docs/operations.md"), "#### ${alert.section}\n")])
    error_message = "an alert has no section in docs/operations.md"
  }
  assert {
    condition     = length(setsubtract(keys(local.alerts), concat(keys(google_monitoring_alert_policy.alert), ["batch", "cache_hits"]))) == 0
    error_message = "an alert is not made"
  }
  assert {
    condition     = alltrue([for text in local.log_metrics : length(text) > 0])
    error_message = "an empty filter would count every line"
  }
}

run "without_hours_the_minimum_belongs_to_the_revision" {
  variables {
    business_hours   = null
    warm_up_schedule = null
    min_instances    = 2
  }
  assert {
    condition = alltrue([
      google_cloud_run_v2_service.worker[0].template[0].scaling[0].min_instance_count == 2,
      length(google_cloud_scheduler_job.warm_instances) == 0,
      length(google_cloud_scheduler_job.warm_up) == 0,
      length(google_service_account.scaler) == 0,
    ])
    error_message = "no schedule, and nothing that could change the service"
  }
}
