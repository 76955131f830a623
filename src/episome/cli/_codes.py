"""What the codes of messages mean, for ``episome doctor --explain``."""

from __future__ import annotations

__all__ = ["CODES", "FAMILIES", "explain"]

#: First letter of a code -> what the family is about, and its exit code.
FAMILIES: dict[str, tuple[str, int]] = {
    "B": ("a benchmark", 2),
    "D": ("the values of the expression matrix", 3),
    "F": ("a file that cannot be read or written", 3),
    "G": ("genes", 3),
    "L": ("labels, batches and other columns", 3),
    "M": ("a model folder", 4),
    "N": ("the network", 7),
    "P": ("a plugin or an optional package", 5),
    "Q": ("a quality gate that was asked for", 9),
    "R": ("memory, disk, device or time", 6),
    "T": ("training that diverged", 8),
    "U": ("an argument or option", 2),
    "W": ("the local page of `episome serve`", 2),
    "X": ("the program itself", 1),
}

#: Codes with an explanation of their own.
CODES: dict[str, str] = {
    "E-B01": (
        "The folder holds no results of a benchmark: these lie in `runs/`, one file per run. Pass "
        "the folder that `episome benchmark run -o` wrote."
    ),
    "E-B02": (
        "A file of results is damaged. Delete it and run the study again: only this run is "
        "repeated."
    ),
    "E-B03": (
        "`allow` says which leaks a study means: donor, barcode, cell. Any other word would allow "
        "nothing and look as if it did."
    ),
    "E-B04": "A split of a study says something that cannot be done.",
    "E-B05": (
        "A study needs a column that nobody names: of labels, of donors to hold out, of batches. "
        "It is looked at before anything is trained."
    ),
    "E-B06": (
        "Nothing is left of a data set after its rules: `keep`, `names`, `min_cells`, or a split "
        "that leaves one side empty."
    ),
    "E-B07": (
        "A study says something that is none: a key that is not known, two models or data sets of "
        "one name, or nothing to compare."
    ),
    "E-B08": "The file of a study is missing, or is no TOML.",
    "E-B09": "The task has no such option; `episome benchmark list` shows the tasks.",
    "E-B10": (
        "No run of the study can be made: its models are not installed or cannot do the task, or "
        "its data sets cannot be read. The message names the first reasons."
    ),
    "E-B11": "There is no such task; `episome benchmark list` shows those that are.",
    "E-B12": (
        "Two models were never run on the same test cells, so nothing can be said about their "
        "difference."
    ),
    "E-B13": "There are no results of this study in the folder.",
    "E-B15": "A study wants a model pretrained whose plugin does not say that it can be.",
    "E-B14": (
        "A study is a TOML file, or a name that a plugin registers; `episome benchmark list` "
        "shows the names."
    ),
    "E-D01": (
        "The matrix holds NaN. A model would train or predict on it without a word, and "
        "every number after it would be NaN too. Drop these cells, put in the values that belong "
        'there, or pass nan="zero" where a missing value means that nothing was seen.'
    ),
    "E-D03": (
        "The matrix holds infinite values, often from a division by an empty cell. No scale "
        "can hold them."
    ),
    "E-D04": (
        "The matrix holds negative values, so it was scaled or centred. Models read counts "
        "or log1p values: they are often in a layer or in raw."
    ),
    "E-D07": (
        "Counts are wanted and the values are log1p of normalised counts: not integers, "
        "below 15, the same sum of expm1 in every cell. Pass the layer that holds counts, or "
        'say input_kind="log1p". A model of counts turns log1p values back by itself where '
        "the sums prove that this is right."
    ),
    "E-D09": (
        "Every value is an integer and every cell has the same sum, so counts were rescaled and "
        "rounded. They are used as counts."
    ),
    "E-D10": (
        "Values are no integers and too large for log1p: counts corrected for ambient RNA, "
        "estimated by pseudo-alignment, or normalised without a logarithm. They are used as "
        "counts; allow_fractional=True says that you know."
    ),
    "E-D11": ("Values are as small as log1p of log1p leaves them. Look at how the file was made."),
    "E-D12": (
        "Cells without any count stay in the answer as unknown, with no confidence; nothing is "
        "known about them."
    ),
    "E-D13": "Every value is zero; usually the wrong layer, or a matrix that was never filled.",
    "E-D15": (
        "Every stored value is one: only presence was kept. Models read amounts, so expect poor "
        "calls."
    ),
    "E-D16": (
        "float16 holds integers up to 2048 exactly. Larger counts were rounded when the file was "
        "written."
    ),
    "E-D17": (
        "The largest value is the largest of its integer type, so larger counts may have wrapped "
        "to small numbers when the file was written. It cannot be seen which."
    ),
    "E-D18": "Counts above 2**24 are not exact in float32, and no real library has them.",
    "E-D23": (
        "The sparse matrix points outside itself, so reading it would return foreign memory. "
        "The file is damaged; write it again."
    ),
    "E-D27": "The object has no X. Name a layer, or use raw.",
    "E-D28": "The layer does not exist; the message lists those that do.",
    "E-D30": "raw was asked for and the object has none.",
    "E-D31": "There are no cells to train on.",
    "E-D32": "There are too few cells to train on.",
    "E-D33": "The gene table is empty.",
    "E-D35": (
        "The names of the cells look like genes: the table has genes as rows. Rows must be cells; "
        "adata.T turns it."
    ),
    "E-D41": "The matrix holds text or complex numbers. Expression is counts or log1p of them.",
    "E-F01": (
        "The file begins like h5ad and cannot be read to its end: it was cut short or "
        "damaged. Download or write it again."
    ),
    "E-F02": (
        "The file is a pointer that Git LFS left in the place of the data. Run `git lfs pull`."
    ),
    "E-F03": "The file is a web page, usually a login or an error page saved by a download.",
    "E-F04": "The file holds nothing.",
    "E-F05": "The file is compressed or an archive. Unpack it first.",
    "E-F06": (
        "The content is of no kind that cells are read from (h5ad, zarr, 10x, h5mu, loom, matrix "
        "market or a table of text), whatever the name says. The message names a converter."
    ),
    "E-F07": (
        "The file does not exist, is a folder, or cannot be opened; the message names files "
        "nearby."
    ),
    "E-F09": (
        "The file declares more than the memory holds, or more than data of cells ever does: "
        "objects, depth, or bytes for each one stored. It was refused before anything was "
        "allocated. max_memory and trust=True lift the limits for a file that you know."
    ),
    "E-F11": (
        "The file refers to other files. Of a file that was sent to you it could read any of "
        "yours, so this is never followed; trust=True does it for a file that you made."
    ),
    "E-F12": (
        "The data are compressed in a way that is not built in, or that would run code. Install "
        "what the message names, or write the file again with gzip."
    ),
    "E-F13": (
        "A part of the file is stored in a form that the installed anndata does not know: a newer "
        "one wrote it. Upgrade anndata. If that changes nothing, the file is damaged."
    ),
    "E-F15": (
        "Another program has the file open for writing. It was waited for ten seconds. A program "
        "that died while writing leaves the same mark in the file."
    ),
    "E-F16": (
        "The file changed while it was read, so what was read may be half old and half new. Read "
        "it again when its writer is done."
    ),
    "E-F18": "The path is on another machine. Download the file first, then pass its path.",
    "E-F20": (
        "Parts of a zarr store are missing, which happens when a folder is copied without its "
        "hidden files or a download stops. zarr itself would read them as zeros."
    ),
    "E-F22": (
        "A line of a table or matrix of text is not like the others, or the text is no table: it "
        "needs a header and at least two columns, split by commas, tabs or semicolons, with "
        "barcodes in the first."
    ),
    "E-F25": "The output is the input. Inputs are never changed; choose another name.",
    "E-F26": (
        "Something is there already. --overwrite replaces a result or a model folder, and "
        "never a folder that holds other things."
    ),
    "E-F27": "A folder or file cannot be written to. Nothing was computed or changed.",
    "E-G02": (
        "None of the model's genes is in the data: symbols against Ensembl identifiers, "
        "another species, or the wrong column. Other names are looked for in columns of var "
        "such as feature_name and gene_ids."
    ),
    "E-G03": (
        "Fewer of the model's genes are in the data than min_gene_overlap asks for. Missing "
        "genes count as zero, and too many zeros make a guess of a call."
    ),
    "E-G04": (
        "A fifth or more of the model's genes are not in the data and count as zero. Calls are "
        "made, and are less sure than the model's scores say."
    ),
    "E-G08": (
        "Genes are found only when their names are read in capitals: they are written as those of "
        "mouse, or a program changed their case."
    ),
    "E-G10": (
        "A spreadsheet turned gene names into dates (MARCH1 into 1-Mar). Those that can be told "
        "are read as genes, the others are left out."
    ),
    "E-G11": (
        "Several genes have one name, so their columns cannot be told apart. "
        'duplicates="sum" adds them up.'
    ),
    "E-G12": (
        "Names such as TBCE-1 were made to tell duplicates apart. Only the first is read, unless "
        'duplicates="sum" adds them up.'
    ),
    "E-G13": (
        "Genes have no names, or only row numbers. Genes are matched by name, never by position."
    ),
    "E-G14": "Genes are numbered placeholders, which match those of any other file.",
    "E-G16": (
        "The genes are of more than one species, as in a mixing experiment. Keep the genes of "
        "one, and the cells that are of it."
    ),
    "E-G18": (
        "Antibodies, peaks or guides stand in one matrix with genes. They would count as genes; a "
        "model of genes reads the rows of kind Gene Expression alone."
    ),
    "E-G21": (
        "The object names one species and the genes look like another's. A model reads genes: "
        "what the object says changes nothing, but one of both is wrong."
    ),
    "E-G22": (
        "The vectors have another length than those that the model was trained on. Dimensions "
        "have no names: only the same model, fitted once, gives vectors that can be compared."
    ),
    "E-G23": (
        "A table of markers names genes that the data do not have. They are left out; where many "
        "are, the table names them in another way, or is of another species."
    ),
    "E-G24": (
        "None of the markers of a type is a gene of the data, so the type can never be called. At "
        "least two types have to be left."
    ),
    "E-L01": 'Cells have no label. unlabeled="keep" leaves them out of training.',
    "E-L02": "Some labels look like no label, but count as classes.",
    "E-L03": "The label column names fewer than two classes.",
    "E-L04": (
        "Classes have one cell each. It is trained on, so nothing shows how well they are called."
    ),
    "E-L05": (
        "The label column has nearly as many values as cells: it looks like cell names or a "
        "measurement."
    ),
    "E-L06": "Cells that carry the unlabelled category take no part in training.",
    "E-L11": "Labels differ only by blanks or case and stay separate classes.",
    "E-L15": "Cell names repeat, so a label could be joined to the wrong cell.",
    "E-L16": "The columns that would be written exist already.",
    "E-L20": (
        "Training and test cells of a benchmark share donors, cell names or cells, so that a "
        "model is asked what it has seen. Split by another column; where it is meant, the split "
        'says so by name: allow = ["donor"], and the report shows it.'
    ),
    "E-L21": "A barcode stands in the file with two different labels.",
    "E-L22": (
        "No barcode of the file is a cell of the data; often a suffix such as -1 is missing "
        "on one side."
    ),
    "E-L23": (
        "A term of your own cannot stand where it should: it needs an identifier of the form "
        "PREFIX:NAME that nobody else has, a label, and current parents, and it cannot be above "
        "itself."
    ),
    "E-L24": "A class name stands twice in the list, so labels would be ambiguous.",
    "E-L25": (
        "The Cell Ontology has no such term in this release. Identifiers look like CL:0000236; "
        "the message names one that is near."
    ),
    "E-L26": "Cells to be scored have no true label or no call.",
    "E-L27": (
        "Cells have a true label that is no class of the hierarchy, so nothing says which calls "
        "would be right for them."
    ),
    "E-L28": "Predicted labels are neither a class of the hierarchy nor a word for no call.",
    "E-L29": "Some labels are numbers and some are names, which are never equal.",
    "E-L30": (
        "The CELLxGENE schema wants terms of the Cell Ontology, and no class of the model has one "
        "that it allows."
    ),
    "E-M02": (
        "The file is a pickle, or a folder with one: loading it could run any code. It is "
        "never opened. Load it with the program that wrote it."
    ),
    "E-M03": "A file of the model differs from its checksum. Copy or download the folder again.",
    "E-M04": "A file of the model has a form that nothing here wrote.",
    "E-M05": "This is no model folder, or files of it are missing.",
    "E-M06": (
        "The weights or the configuration do not fit the model class, usually because "
        "another version of the plugin wrote them."
    ),
    "E-M07": "Weights are NaN or infinite. Such a model is neither saved nor loaded.",
    "E-M08": "The folder holds another model. episome.models.load takes any.",
    "E-M10": "The folder was written by a newer episome.",
    "E-M12": "The folder names or links to files outside itself. Do not use it.",
    "E-M13": (
        "The lists of genes or labels do not fit the network, so calls would carry wrong names."
    ),
    "E-M14": (
        "The folder of an ensemble was given where one model is wanted, or the reverse. "
        "episome.models.load reads both."
    ),
    "E-M15": (
        "The members of an ensemble have other genes or classes than each other: the mean of "
        "their probabilities would mean nothing."
    ),
    "E-M21": (
        "A model that others get needs a card with its licence, what it was trained on, what it "
        "is for and not for, and scores with the digest of the data that they are of: `episome "
        "models card` writes it."
    ),
    "E-M22": (
        "The scores of a card are of the very weights of the folder; a model that was trained "
        "again is evaluated again."
    ),
    "E-M20": "The model was not trained. Call train() first.",
    "E-M30": (
        "The file of weights names functions or classes that loading it would run. Nothing of it "
        "was run. Where you trust it, save its tensors alone with the program that wrote it."
    ),
    "E-M31": "The file cannot be read as weights: it was cut, or it is something else.",
    "E-M32": (
        "The list of genes does not fit the inputs of the foreign weights, so values would enter "
        "as other genes. It has to be the list of the store that the model was trained on, in its "
        "order."
    ),
    "E-M33": (
        "The list of labels does not fit the outputs of the foreign weights, so calls would carry "
        "wrong names."
    ),
    "E-M34": (
        "The tensors or settings in the file are not those of the published network that the "
        "importer reads, or contradict each other."
    ),
    "E-M35": (
        "Labels given for foreign weights are not in alphabetical order, as the codes of the "
        "published models are. In the wrong order calls carry wrong names."
    ),
    "E-M36": (
        "Files of CellTypist are pickles, and opening one runs whatever code is in it. It was not "
        "opened. trust=True opens a file whose maker you know; the folder saved from it holds no "
        "code."
    ),
    "E-N04": "A connection is needed, and --offline or EPISOME_OFFLINE says that there is none.",
    "E-N02": (
        "A hub is asked over an encrypted connection, or on this machine. HF_ENDPOINT names "
        "another address."
    ),
    "E-N03": (
        "The hub has no model, revision or file of this name, or does not let you see or change "
        "it. Private models and pushing need a login: `hf auth login`, or HF_TOKEN."
    ),
    "E-N01": (
        "The network, or the server at its other end, did not answer. Nothing was read; the same "
        "command may work later."
    ),
    "E-P01": (
        "No installed plugin offers this name. `episome plugins` lists every name, and every "
        "plugin that could not be loaded."
    ),
    "E-P02": (
        "The plugin raised an error when it was imported, or something it needs is not "
        "installed. Other plugins are not affected. Update or reinstall it, or tell its "
        "authors."
    ),
    "E-P03": (
        "Two plugins claim one name, or a plugin claims a name of the host. Neither wins, so "
        "that installing a package never changes what a name means. The qualified name, "
        "`id:Name`, always works."
    ),
    "E-P04": "A plugin's command has the name of another command. The one that was there stays.",
    "E-P05": (
        "The plugin was written for another version of the plugin interface, or does not say "
        "for which (EPISOME_API in its module). Update the plugin or episome."
    ),
    "E-P06": (
        "A hook of the plugin has a wrong name, signature or result. Its authors have to mend it."
    ),
    "E-P09": (
        "The plugin does not keep the host's contract: a check of `episome plugins check` failed. "
        "Every check says what it tried, what came out, and what users would get. Its authors "
        "have to mend it."
    ),
    "E-P14": (
        "No plugin is installed that could do this, or the metadata of a distribution is damaged."
    ),
    "E-R01": (
        "The memory that is free is less than what the smallest batch needs. The estimate is made "
        "of the sizes of the layers, the optimiser's state and the width of the data."
    ),
    "E-R02": "The disk is full. What was there before is untouched.",
    "E-R03": (
        "One of the processes of a training ended. The others were stopped; what was kept of the "
        "training is kept."
    ),
    "E-R04": 'The device does not exist or cannot be used. "auto" takes what is there.',
    "E-T01": (
        "The loss became NaN or infinite. The model has the weights of before. A lower rate "
        "or full precision usually helps."
    ),
    "E-T03": (
        "The folder holds no checkpoint that can be read. A checkpoint is sealed with checksums; "
        "one that a killed program was writing never takes the place of the one before."
    ),
    "E-T06": (
        "The checkpoint of before is whole, and training goes on. What is done since then would "
        "be lost if the program ended now."
    ),
    "E-T07": (
        "The batch is split, and the gradients of its parts are added up: the updates are those "
        "of the whole batch, but for batch norms, which see the parts."
    ),
    "E-T13": (
        "A run goes on only with the cells, genes, classes, split, seed, settings and versions "
        "that it began with: anything else would be a mixture of two runs."
    ),
    "E-U01": "The command or option does not exist, or a required one is missing.",
    "E-U02": "The value of an option is not one that it takes.",
    "E-U03": "The code to explain does not exist.",
    "E-U04": "The column does not exist; the message lists those that do.",
    "E-U05": "A seed has to be a whole number of zero or more.",
    "E-U06": "A number of threads has to be a whole number of one or more.",
    "E-U07": "The object is of a type that cells cannot be read from.",
    "E-U08": "Results are written as .csv, .tsv, .parquet or .h5ad.",
    "E-U09": (
        "An annotated h5ad is a copy of one object or file with all its cells, which has to be "
        "there. Cells that are read in blocks, and parts of a split, give a table."
    ),
    "E-U10": "The sizes of the parts have to be between 0 and 1 and to add up to at most 1.",
    "E-U11": "The rows of a given split have to be disjoint and inside the data.",
    "E-U12": (
        "The model does not have this output: `episome plugins` lists what each can do. "
        "Embeddings need a model with the capability embedding, imputed expression one with "
        "reconstruction, another modality one with translation."
    ),
    "E-U13": "The model does not annotate cells.",
    "E-U14": "plan_kwargs holds a key that the training plan does not take.",
    "E-U15": "A value in plan_kwargs is impossible.",
    "E-U16": "train() was given an argument that it does not take. Nothing was trained.",
    "E-U17": (
        "The model was made or loaded without data, or reads its cells from a file and the call "
        "wants an AnnData object. Pass data to the call, or attach them when loading."
    ),
    "E-U18": "A model folder has no place for this argument.",
    "E-U19": "Fewer than two labelled cells are left for training.",
    "E-U20": "A class has no training cell, so the model could never call it.",
    "E-U21": (
        "The split cannot be made this way. external_indexing takes any split as row numbers."
    ),
    "E-U22": "The number has to be at least 1.",
    "E-U23": "The model has no preset of this name.",
    "E-U24": (
        "The model, its set-up or its training does not take this argument; the message "
        "lists those it takes."
    ),
    "E-U25": "Devices are auto, cpu, cuda, cuda:0, cuda:1 ... and mps.",
    "E-U26": (
        "--set takes KEY=VALUE, train.KEY=VALUE or plan.KEY=VALUE; the value is read as JSON, and "
        "as text where it is none; it has to be of the kind that the argument takes. What has an "
        "option of its own is given once."
    ),
    "E-U27": "Values are in a layer or in raw, and a split is a file or lists of rows: not both.",
    "E-U28": (
        "The object was not set up and does not follow the CELLxGENE schema. Call "
        "setup_anndata with the name of the label column."
    ),
    "E-U29": (
        "The object is a view of another one, and set-up leaves its bookkeeping in the "
        "object. Copy it."
    ),
    "E-U30": "The argument takes certain words only; the message lists them.",
    "E-U31": "The model cannot be built with these sizes.",
    "E-U32": "One column is given as label and as donor.",
    "E-U33": (
        "A strategy shares a training out among several devices, and there is one. On a CPU "
        "devices are processes, and --devices says how many."
    ),
    "E-U34": (
        "--part names a part of the split that --split reads, and --threshold says what "
        "--corrected replaces: they mean nothing without it."
    ),
    "E-U35": (
        "Donor augmentation adds differences between two donors of one type. It needs donor_key "
        "at set-up, and at least one type with enough training cells of two donors."
    ),
    "E-U36": (
        "The run has no metric of that name to choose the best epoch by. The ontology-aware one "
        "exists only where classes have Cell Ontology terms."
    ),
    "E-U37": "An ensemble needs members of the same genes, classes and input.",
    "E-U40": (
        "This release of the Cell Ontology is not installed; the message lists those that are."
    ),
    "E-U41": "Lists that belong together have different lengths.",
    "E-U42": (
        "The child matrix has to be square, one row per class, with every class a child of "
        "itself and every child of a child a child."
    ),
    "E-U43": "There are too few cells or donors for this number.",
    "E-U44": (
        "Values are outside the range that they can have: probabilities from 0 to 1 with rows "
        "that add up to 1, codes of existing classes and rows, a level between 0 and 1."
    ),
    "E-U45": (
        "Two series name different cells in their indexes, or some cells twice, so nothing says "
        "which value belongs to which. Arrays are compared by position."
    ),
    "E-U46": (
        "Scores with the ontology need to know which class of a model is a kind of which: a "
        "ClassHierarchy, made from the names of the classes or taken from the model."
    ),
    "E-U50": (
        "Groups are one value per cell of the query, or a series that has all of its cell names."
    ),
    "E-U51": (
        "There are so many groups that a table of groups and genes would fill the memory. A "
        "column of cell names is the usual cause."
    ),
    "E-U52": "The network has fewer decision steps.",
    "E-U53": (
        "A checkpoint does not name its genes. Their order is that of the store that the model "
        "was trained on; nothing else tells it."
    ),
    "E-U54": (
        "A checkpoint does not name its classes. They are in the store that the model was trained "
        "on, in the order of their codes."
    ),
    "E-U55": "The table has no column that could be the list; the message says its columns.",
    "E-U38": "A table of genes needs two columns: the name in the data, and the name to use.",
    "E-U39": "Rows are named that the data do not have, or in a form that is no row number.",
    "E-U56": (
        "For some groups no gene has a positive attribution, so their list is empty. Masks of a "
        'briefly trained network can be so; method="gradient" asks the network itself.'
    ),
    "E-U57": (
        "The column named for ontology terms holds none, or several for the cells of one class."
    ),
    "E-U58": (
        "Members of the ensemble came out the same: the method does not depend on the seed, so "
        "their mean is the model."
    ),
    "E-D45": (
        "Cells of several modalities are paired by their names, and no name is in all of them. "
        "Often one program writes an ending such as -1 behind the barcode and another does not."
    ),
    "E-D46": (
        "Values of proteins, peaks or other features are negative or no integers, as after CLR, "
        "TF-IDF or log1p. That is usual; only a model of counts wants the raw ones."
    ),
    "E-D47": (
        "The model reads an array of obsm, such as the vectors of a foundation model, and these "
        "cells have none of that name."
    ),
    "E-D52": (
        "CellTypist is made for log1p values of cells scaled to 10,000 counts over all genes. The "
        "training cells have other sums: genes were taken out after normalising, or the scale is "
        "another. It is trained all the same, and its scores mean less."
    ),
    "E-U80": (
        "A model by marker genes is given a table of them, or learns them from labelled cells, "
        "and has neither."
    ),
    "E-U81": (
        "Markers are a table of types and genes, with weights and directions where you like; the "
        "message says what could not be read as one."
    ),
    "E-U82": (
        "The column of batches names none for some cells, and every cell is conditioned on its "
        "batch. Give those cells a batch, or leave the column out."
    ),
    "E-D53": (
        "Models of counts, such as scVI, scANVI and totalVI, describe how many molecules were "
        "seen. Values after log1p are no such numbers. Pass the layer that holds counts."
    ),
    "E-U60": "There is no modality of this name or kind; the message lists those that there are.",
    "E-U61": (
        "The list names genes, or features of another modality, that the model was not trained "
        "on, so there is nothing to give back for them; or a symbol that several of its genes "
        "have. Names are those of model.features.ids and of model.target_features.ids."
    ),
    "E-U62": (
        "The mask says which values to hide, one row per cell asked for and one column per gene "
        "of the model. Of another shape it would hide the wrong ones."
    ),
    "E-U63": (
        "A model that predicts one modality from another is trained on MuData with both, and has "
        "to know which is which. It predicts from the AnnData object of the RNA alone."
    ),
    "E-U64": (
        "The temperature divides the logits before they become probabilities, so it is above "
        "zero: 1 changes nothing, more makes a model less sure."
    ),
    "E-U65": (
        "An error rate or a share of false alarms lies between 0 and 1, such as 0.05 for one in "
        "twenty."
    ),
    "E-U66": (
        "Label sets and novelty are measured against cells that were held out of training, and "
        "the model has none. Train it again with validation or calibration cells."
    ),
    "E-U70": (
        "The name of a plugin is part of the names of its distribution, its module and its class: "
        "lower-case letters, digits and single hyphens, a letter first."
    ),
    "E-U71": (
        "The name of a plugin is also that of its model and of its command, so it may not be one "
        "of the host's commands, a word of Python, or the name of a base class."
    ),
    "E-U72": (
        "An installed plugin has this name, for itself, a model or a class. On a clash neither "
        "gets it, so a new plugin takes another."
    ),
    "E-U75": (
        "Models are compared on held-out cells, and there is nothing to compare: no annotator is "
        "installed, none could be trained on these cells, or there is one cell type only."
    ),
    "E-U76": (
        "The comparison of models takes every one as it comes, and holds out parts of its own; "
        "settings such as a preset, a number of epochs or a split belong to one of them."
    ),
    "E-U74": (
        "Vectors of another model have neither genes nor counts. Only models that are right on "
        "any dense vectors read them."
    ),
    "E-U83": (
        "Most models read their cells in batches, so that these may stay in a file. This one "
        "hands all of them to another program, and takes an object. "
        "The comparison of models and the audit of labels read all cells into memory too."
    ),
    "E-D54": (
        "Of files that are read as one, some hold counts and others values after log1p. Every "
        "cell would be told by its file. Choose the layer, or raw, that holds counts in all."
    ),
    "E-G25": (
        "Files that are read as one have their genes matched by name, and here hardly any match: "
        "another kind of identifier, another species, or no names at all."
    ),
    "E-G26": (
        "The cells say that they are of another organism than the cells the model was trained on. "
        "Calls are made, but genes of one name need not do the same in both. Without a column "
        "organism_ontology_term_id or organism in training cells and query nothing is said."
    ),
    "E-U85": (
        "Several files are read as one set of cells: there has to be one at least, and what "
        "belongs to a cell has to be in its own file."
    ),
    "E-U84": (
        "setup_source looks at cells for one model: its labels, its genes, its arguments. Call it "
        "on the model that is to be trained."
    ),
    "E-U73": "There is a template for each of the four tasks, and for no other.",
    "E-D55": (
        "A corpus holds whole counts, which every model can start from: values after a "
        "logarithm, a normalisation or a correction cannot be turned back. The layer or raw "
        "often has the counts."
    ),
    "E-D56": "A corpus keeps a count in at most 32 bits. A larger one is no count of molecules.",
    "E-D57": (
        "Conditions are all to be met by every cell, and a value must be written as it is in "
        "the file. Nothing was written."
    ),
    "E-D59": (
        "The model was fitted on some of the genes only, such as the variable ones, and expects "
        "nothing of the others: they are NaN."
    ),
    "E-D64": (
        "How well every feature is predicted was seen in cells that were held out of training: "
        "of these features the predictions say nothing about single cells. Their mean is right."
    ),
    "E-D58": (
        "An experiment of SOMA holds its matrices in measurements, such as RNA, each with genes "
        "of its own."
    ),
    "E-F30": (
        "The folder is no corpus: a corpus has a manifest.json that says so, and is complete "
        "when it has its name."
    ),
    "E-F31": (
        "A file of the corpus was cut, changed, or is missing. Nothing is read from a corpus "
        "whose files have another size; corpus verify compares every byte."
    ),
    "E-F32": "The corpus was written by a newer episome, in a format that this one cannot read.",
    "E-F33": "A split is the JSON file that corpus split writes.",
    "E-F34": "The record of a run is manifest.json of a folder that --run-folder made.",
    "E-F35": "A run is repeated with the very inputs that it had, by their digests.",
    "E-F40": (
        "A report is made of what annotate, audit, evaluate, train or benchmark run wrote, or of "
        "the folder of --run-folder."
    ),
    "E-F41": (
        "The result is complete, its report could not be made, or would have replaced a file. "
        "Everything that was asked for but the page is there."
    ),
    "E-L35": (
        "A column that was asked for is not in every input, so some cells would have no value. "
        "Without --columns those of the CELLxGENE schema are taken that all inputs have."
    ),
    "E-L36": (
        "A column is text in one input and numbers in another. Numbers as text would be other "
        "values than they were."
    ),
    "E-L37": (
        "A split by donor gives every part donors of its own and leaves training at least one "
        "cell of every label. There are too few donors for that."
    ),
    "E-L38": (
        "A split names donors, and keeps a checksum of the row numbers that follow. These cells "
        "have other donors, or another order."
    ),
    "E-L39": (
        "Clusters are groups of many cells. A column with about as many values as cells is often "
        "that of the names of the cells, or of a number that was measured."
    ),
    "E-L42": (
        "Calls are rolled up along the Cell Ontology, and no class of the model has a term of it: "
        "train with a column of terms, or with names that the ontology knows."
    ),
    "E-L43": "The cells are restricted to a type that no class of the model is a kind of.",
    "E-L44": "Classes without a term of the Cell Ontology have nothing above them to roll up to.",
    "E-L45": (
        "An audit trains models without some of the cells and asks them about these. A class of "
        "few cells, or of one donor, leaves too little to learn from, so that its labels are "
        "hardly judged or not at all."
    ),
    "E-L41": "A teacher calls all cells alike, so that a student has nothing to learn.",
    "E-R05": (
        "Two programs would write the same files. The lock is let go when the other program "
        "ends, however it ends."
    ),
    "E-G31": (
        "Of the proteins or peaks that a model predicts, fewer are in the data than min_overlap "
        "asks for. Peaks are matched by overlap, and places mean the same only within one build "
        "of a genome: the message says of which builds both can be, by the lengths of chromosomes."
    ),
    "E-G32": (
        "Peaks are matched by where they are, and their names do not say it: chr1:100-200, "
        "chr1_100_200 and chr1-100-200 are read, with or without chr."
    ),
    "E-G33": (
        "Another panel lacks a fifth or more of the proteins or peaks that a model predicts. They "
        "are not measured, which is no zero: scores are those of the others."
    ),
    "E-D65": (
        "A query lacks genes of a model, and is asked for intervals that were made of cells with "
        "all of them: they may be too narrow."
    ),
    "E-D63": (
        "Features of another modality were not measured in all cells, and the model cannot leave "
        "them out cell by cell."
    ),
    "E-D61": (
        "A scale has numbers of its own for every feature, learned from training cells or empty "
        "droplets. A feature that none of them measured has none."
    ),
    "E-D62": (
        "DSB divides by the standard deviation in empty droplets, and a feature with one value in "
        "all of them has none."
    ),
    "E-U113": (
        "A scale of what is predicted was given options, empty droplets, controls or features "
        "that are not its own. Every feature has numbers of its own: cells of another panel are "
        "brought to the features of the training cells first, with match_features."
    ),
    "E-U105": "A table of common names has a label and its common name in every row.",
    "E-U106": (
        "What hidden genes are imputed from are the genes that are left, and the model has to see "
        "as large a share of its genes as any query has to have."
    ),
    "E-U111": (
        "A table of text is read as a whole by whoever opens it. Expression of many cells and "
        "genes is written as h5ad, which is read in parts; or choose genes."
    ),
    "E-U104": "A gene set is a name, =, and genes separated by commas.",
    "E-G27": "The query has no gene of a set whose score is wanted.",
    "E-G28": "The score of a gene set is that of the genes that the query has.",
    "E-G29": (
        "No gene programme has enough genes of the model: names of another species or kind match "
        "none."
    ),
    "E-U108": "No plugin registers a pretext task of this name.",
    "E-U109": (
        "A pretext task needs gene programmes and none were given, or it has no use for those "
        "that were."
    ),
    "E-U112": "Layers of an encoder are to stay as they are, and nothing was learned in them.",
    "E-U115": (
        "A table has the ends of intervals in the columns NAME_lower and NAME_upper, and another "
        "feature has that name."
    ),
    "E-U114": "Intervals are asked of a model that has none.",
    "E-U110": "A decoder is asked for a batch, or given cells of one, that it does not know.",
    "E-T14": "An embedding gives all cells nearly the same numbers: it has collapsed.",
    "E-L48": (
        "A model is scored on donors or cells that it was trained on. A folder keeps digests of "
        "its donors and of some names of its cells, by which they are known again."
    ),
    "E-L49": (
        "Intervals over donors are asked for of fewer than five donors. They are drawn with "
        "replacement, and few donors vary too little among themselves to stand for others."
    ),
    "E-L46": "An encoder was pretrained on donors that are held out to score what came of it.",
    "E-D67": (
        "Cells that were written are read back, and others came out: something between the "
        "reader and the writer is broken. What was there before is untouched."
    ),
    "E-L47": (
        "Cells that are scored have labels that the model was not trained on. Their calls can "
        "only be wrong, or right as a kind of the label by the Cell Ontology."
    ),
    "E-U116": "Only models in the cache, which were pulled from a hub, are removed by their name.",
    "E-U117": "Scores of a card are what `episome evaluate -o scores.json` wrote.",
    "E-U118": (
        "The card of a model begins with a block of YAML between two lines of three dashes."
    ),
    "E-U119": "Models on the hub are named owner/name, in letters, digits, dots and hyphens.",
    "E-U120": "A file of settings is TOML of at most 1 MB, with options as keys.",
    "E-U121": (
        "A file of settings names an option or a command that there is not, or a value that the "
        "option cannot have. --print-config shows a file that can be read."
    ),
    "E-U140": (
        "Formats of other programs are read and written by plugins. `episome plugins list` shows "
        "the converters of those that are installed."
    ),
    "E-D70": "Only annotated cells can be written for viewers and portals: there are no calls.",
    "E-D71": "The CELLxGENE schema requires counts, and the cells have none in X, raw or a layer.",
    "E-D73": "Viewers show values as they are, and those of X were scaled by gene.",
    "E-D72": "Viewers draw a map of the cells, such as obsm['X_umap'], and there is none.",
    "E-U142": "An annotation in the cell annotation schema names its author.",
    "E-U141": "A format of other programs needs the cells of a model, or has no place for them.",
    "E-U130": (
        "A map of the cells is drawn from two coordinates of every cell, such as a UMAP in obsm."
    ),
    "E-U131": "What a picture is to show is not there, or is not of the same cells.",
    "E-U132": "A report puts calls beside the very model that made them, by its digest.",
    "E-U122": "Runs that ended well and wrote one file or folder can be repeated and compared.",
    "E-U107": "Files of gene sets name the same set with different genes.",
    "E-U103": "No cell fulfils the conditions that were given.",
    "E-U86": (
        "What a model says itself of its genes may be of no class: masks of TabNet tell what was "
        'read, not for which class. method="auto" and "gradient" ask a network for the slope of '
        "the score of a class instead."
    ),
    "E-U87": (
        "Explanations are of a class that the model knows, against another that it knows, or the "
        "runner-up of every cell."
    ),
    "E-U88": (
        "Right and wrong calls can only be told where the labels of the cells are names of the "
        "model's classes."
    ),
    "E-U89": (
        "Too few cells are left to remove genes from: those without the model's genes, those that "
        "are not called rightly, and those in which no gene speaks for the call take no part."
    ),
    "E-U78": (
        "A list of genes is enriched in a set compared with all genes that could have been in it: "
        "those of the model that made the list."
    ),
    "E-U79": (
        "Tables of genes are compared group by group: what top_genes, explain with groups, or "
        "scanpy's rank_genes_groups gives."
    ),
    "E-U95": (
        "Genes have several names, identifiers and symbols, in upper case in one species and not "
        "in another. Where no name is in both lists there is nothing to compare."
    ),
    "E-U67": "Every cell needs one label and a probability for each of two or more classes.",
    "E-U68": "An audit needs at least two folds and one round; other numbers are zero or more.",
    "E-U90": "A condition is a column, = or !=, and a value; several values are separated by |.",
    "E-U91": "A corpus is made of files, each named once: twice would be the same cells twice.",
    "E-U92": (
        "Types are told by terms of the Cell Ontology, such as CL:0000084. A term that was "
        "replaced is followed to the one that replaced it."
    ),
    "E-U93": (
        "A value filter compares columns of the cell table with values, joined by and, or and "
        "not: \"tissue == 'lung' and n_genes > 500\"; 'in' takes a list."
    ),
    "E-U94": (
        "A query of the Census is census: and an organism; @ and a release, and ? and a value "
        "filter, may follow. On a command line it stands in quotation marks."
    ),
    "E-U97": "A run goes on in the folder that holds its checkpoints.",
    "E-U98": (
        "Cells are drawn in training as often as their weights say: one finite number of 0 or "
        "more for every cell, not all of them zero."
    ),
    "E-U99": (
        "A search needs an annotator, two or more settings, and names of arguments: model.X of "
        "the constructor, train.X of train, plan.X of its plan_kwargs, each with values or a "
        "range."
    ),
    "E-W01": "Uploads have a limit; a file on the machine of the page may be named by its path.",
    "E-W02": (
        "Jobs wait in one queue for all users. A full one takes no more, and says so before a "
        "file is sent."
    ),
    "E-W03": "Files are taken only while enough of the disk is free, so that no result is cut.",
    "E-W04": (
        "Addresses of files and jobs belong to the browser that made them; for others they do not "
        "exist. What is old is deleted."
    ),
    "E-W05": (
        "The printed address lets a browser in by its token; a cookie keeps it in. Cookies that "
        "were deleted, or another browser, need the address again."
    ),
    "E-W06": (
        "A request that changes something must come from the page itself, and be addressed to a "
        "name of this machine: others may be another site's doing."
    ),
    "E-W07": "Pieces of an upload follow each other; `offset` in the details says where to go on.",
    "E-W08": "An upload without data for half a minute ends; in pieces, it goes on later.",
    "E-W09": "Every job has a limit of time; the command line has none.",
    "E-W10": (
        "The process that did the job ended without an answer: a file made a library crash, or "
        "the system ended it. The page and other jobs are processes of their own."
    ),
    "E-W11": "A job that ran twice when the page was ended is not begun a third time by itself.",
    "E-W12": (
        "The page listens on this machine alone unless --host says otherwise; then it wants a "
        "--token, or --public."
    ),
    "E-W13": "Every job has a limit of memory, so that one cannot take that of all others.",
    "E-W14": "A form or a request lacks something, or holds what cannot be.",
    "E-W15": "Only files of cells are taken, by their ending; their content is looked at later.",
    "E-W16": "Another program listens on this port, or the address is none of this machine.",
    "E-W17": "A folder of state belongs to one page at a time; --state names another.",
    "E-X01": (
        "A bug in episome. The crash report holds versions, the command and the place; no data."
    ),
    "E-X130": "The run was stopped by Ctrl-C.",
    "E-X143": "The run was stopped by SIGTERM.",
}


def explain(code: str) -> str | None:
    """Return what a code means; for one without a text of its own, what its family is about."""
    family = FAMILIES.get(code[2:3]) if code.startswith("E-") and code[3:].isdigit() else None
    if family is None:
        return None
    about = f"About {family[0]}. Exit code {family[1] if code not in _OTHER else _OTHER[code]}."
    return f"{CODES[code]} {about}" if code in CODES else f"{about} The message says the rest."


_OTHER = {"E-X130": 130, "E-X143": 143}
