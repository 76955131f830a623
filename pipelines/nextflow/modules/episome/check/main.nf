process EPISOME_CHECK {
    tag "${meta.id}"
    label 'process_single'

    input:
    tuple val(meta), path(cells)
    path model

    output:
    tuple val(meta), path("*.check.json"), emit: json
    path "versions.yml", emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: meta.id
    """
    episome check '${cells}' -m '${model}' --offline --json ${args} > '${prefix}.check.json' \\
        || { code=\$?; cat '${prefix}.check.json' >&2; exit \$code; }

    printf '"%s":\\n    episome: %s\\n' '${task.process}' "\$(episome --version | awk '{print \$NF}')" > versions.yml
    """

    stub:
    def prefix = task.ext.prefix ?: meta.id
    """
    echo '{}' > '${prefix}.check.json'
    printf '"%s":\\n    episome: stub\\n' '${task.process}' > versions.yml
    """
}
