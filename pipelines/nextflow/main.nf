#!/usr/bin/env nextflow
// Check, annotate and report every sample; see ../README.md.

include { EPISOME_CHECK    } from './modules/episome/check/main'
include { EPISOME_ANNOTATE } from './modules/episome/annotate/main'
include { EPISOME_REPORT   } from './modules/episome/report/main'

workflow EPISOME {
    take:
    cells // channel: [ val(meta), path(cells) ]
    model // path of the model's folder

    main:
    EPISOME_CHECK(cells, model)
    // What cannot be annotated ends at its check, with its reasons.
    EPISOME_ANNOTATE(cells.join(EPISOME_CHECK.out.json).map { meta, files, _json -> [meta, files] }, model)
    EPISOME_REPORT(EPISOME_ANNOTATE.out.calls)

    emit:
    check    = EPISOME_CHECK.out.json
    calls    = EPISOME_ANNOTATE.out.calls
    report   = EPISOME_REPORT.out.html
    versions = EPISOME_CHECK.out.versions.mix(EPISOME_ANNOTATE.out.versions, EPISOME_REPORT.out.versions)
}

workflow {
    if (!params.samples || !params.model) {
        error("name --samples, a csv with the columns sample and path, and --model, the folder of a model")
    }
    cells = channel.fromPath(params.samples, checkIfExists: true)
        .splitCsv(header: true)
        .map { row -> [[id: row.sample], file(row.path, checkIfExists: true)] }
    EPISOME(cells, file(params.model, checkIfExists: true))
}
