process EPISOME_REPORT {
    tag "${meta.id}"
    label 'process_single'

    input:
    tuple val(meta), path(calls), path(record)

    output:
    tuple val(meta), path("*.report.html"), emit: html
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: meta.id
    """
    episome report '${calls}' -o '${prefix}.report.html' ${args}

    printf '"%s":\\n    episome: %s\\n' '${task.process}' "\$(episome --version | awk '{print \$NF}')" > versions.yml
    """

    stub:
    def prefix = task.ext.prefix ?: meta.id
    """
    echo '<!doctype html>' > '${prefix}.report.html'
    printf '"%s":\\n    episome: stub\\n' '${task.process}' > versions.yml
    """
}
