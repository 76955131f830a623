version 1.0

# Check, annotate and report the cells of one sample; see ../README.md.

workflow episome {
  input {
    String sample
    Array[File]+ matrix
    File model
    String options = ""
    String container = "episome:latest"
    Int cpu = 2
    Int memory_gb = 8
    Int disk_gb = 50
  }

  call episome_annotate {
    input:
      sample = sample,
      matrix = matrix,
      model = model,
      options = options,
      container = container,
      cpu = cpu,
      memory_gb = memory_gb,
      disk_gb = disk_gb
  }

  output {
    File check = episome_annotate.check
    File calls = episome_annotate.calls
    File record = episome_annotate.record
    File report = episome_annotate.report
  }

  parameter_meta {
    sample: "Name of the sample; the files that are written begin with it."
    matrix: "The files of a folder of Cell Ranger or STARsolo, or one h5, h5ad or other file."
    model: "The folder of a model, as a tar.gz of what is in it."
    options: "Options of `episome annotate`."
    container: "Image that has episome."
  }

  meta {
    description: "Trustworthy cell type labels for one sample, by a model that you have."
  }
}

task episome_annotate {
  input {
    String sample
    Array[File]+ matrix
    File model
    String options
    String container
    Int cpu
    Int memory_gb
    Int disk_gb
  }

  command <<<
    set -euo pipefail
    mkdir model cells
    tar -xzf "~{model}" -C model
    while read -r file; do ln -s "$file" cells/; done < "~{write_lines(matrix)}"
    # One file is the input itself, several are a folder.
    input=cells
    if [ "$(find cells -type l | wc -l)" = 1 ]; then input="cells/$(ls cells)"; fi

    # Where it fails, the reason is in the object that it printed.
    episome check "$input" -m model --offline --json > "~{sample}.check.json" \
      || { code=$?; cat "~{sample}.check.json" >&2; exit $code; }
    episome annotate "$input" -m model -o "~{sample}.calls.csv" --offline --threads ~{cpu} ~{options}
    episome report "~{sample}.calls.csv" -o "~{sample}.report.html"
  >>>

  output {
    File check = "~{sample}.check.json"
    File calls = "~{sample}.calls.csv"
    File record = "~{sample}.calls.csv.run.json"
    File report = "~{sample}.report.html"
  }

  runtime {
    docker: container
    cpu: cpu
    memory: "~{memory_gb} GB"
    disks: "local-disk ~{disk_gb} SSD"
  }

  parameter_meta {
    matrix: "The files of one folder, or one file."
    model: "The folder of a model, as a tar.gz of what is in it."
  }
}
