process EPISOME_ANNOTATE {
    tag "${meta.id}"
    label 'process_medium'

    input:
    tuple val(meta), path(cells)
    path model

    output:
    tuple val(meta), path("*.calls.csv"), path("*.calls.csv.run.json"), emit: calls
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: meta.id
    """
    episome annotate '${cells}' -m '${model}' -o '${prefix}.calls.csv' --offline --threads ${task.cpus} ${args}

    printf '"%s":\\n    episome: %s\\n' '${task.process}' "\$(episome --version | awk '{print \$NF}')" > versions.yml
    """

    stub:
    def prefix = task.ext.prefix ?: meta.id
    """
    echo 'barcode,label' > '${prefix}.calls.csv'
    echo '{}' > '${prefix}.calls.csv.run.json'
    printf '"%s":\\n    episome: stub\\n' '${task.process}' > versions.yml
    """
}
