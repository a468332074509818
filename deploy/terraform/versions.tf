# Versions of Terraform and its provider, and where the state lies.

terraform {
  # 1.7: tests with mocked providers.
  required_version = ">= 1.7"

  required_providers {
    google = {
      source = "hashicorp/google"
      # 7.0: worker pools as they are now, load balancing scheme EXTERNAL_MANAGED by default.
      version = "~> 7.0"
    }
  }

  # The state holds no secret. Give bucket and prefix at `terraform init -backend-config=bucket=… -backend-config=prefix=…`,
  # or `-backend=false` for a check without state.
  backend "gcs" {}
}

provider "google" {
  project = var.project
  region  = var.region
}
