"""Words in the names of folders, by what they say: parts of a set, no class, a patient, a grade, a view, a finding."""

import re
import unicodedata
from collections.abc import Sequence


def _word_set(words: str) -> set[str]:
    return set(words.split())


# All words are in lower case and without accents, as `words_of` gives them.
SPLIT_WORDS = {
    **dict.fromkeys(
        _word_set(
            """
            train training trn trainset traindata trainingsdaten lerndaten entrenamiento entrainement apprentissage
            treino treinamento addestramento allenamento 训练 训练集
            """
        ),
        "train",
    ),
    **dict.fromkeys(
        _word_set(
            "test testing tst testset testdata testdaten holdout prueba pruebas essai essais teste prova 测试 测试集"
        ),
        "test",
    ),
    **dict.fromkeys(
        _word_set(
            """
            val valid validation dev eval valset validierung validierungsdaten validacion validacao convalida
            validazione validatie 验证 验证集
            """
        ),
        "val",
    ),
}
# Words without information about what a picture shows.
EMPTY_WORDS = _word_set(
    """
    data dataset datasets database image images img imgs picture pictures photo photos scan scans set phase final
    prelim preliminary input inputs groundtruth gt ground truth label labels mask masks annotation annotations
    segmentation segmentations public private release version stage task archive raw original processed preprocessed
    cropped resized png jpg jpeg jpgs pngs dicom dcm tif tiff bmp nifti files folder folders download downloads
    unzipped extracted copy backup of and the zip tar gz rar 7z v originals description descriptions metadata full
    bild bilder aufnahme aufnahmen foto fotos maske masken daten datensatz imagen imagenes mascara mascaras datos
    imagem imagens dados masque masques donnees immagine immagini maschera maschere dati afbeelding afbeeldingen beelden
    图像 图片 掩膜 掩码
    """
)
# Folders beside classes that hold something about the pictures, or made of them, instead of a class.
NO_CLASSES = _word_set(
    """
    mask masks groundtruth annotation annotations annotated segmentation segmentations overlay overlays augmented
    augmentation augmentations original originals labels description descriptions metadata thumbnail thumbnails
    thumbs cropped crops resized processed preprocessed result results output outputs prediction predictions heatmap
    heatmaps temp tmp backup backups maske masken mascara mascaras masque masques maschera maschere 掩膜 掩码
    """
)
ORIGINALS = _word_set("original originals")  # those among them that may be a class: original and fake
# Ways to store or draw one picture.
RENDERINGS = _word_set(
    "rgb hsv grayscale greyscale gray grey color colour bw lowres highres hires res resolution low high segmented"
)
PART_WORDS = _word_set(
    """
    part parts pt batch chunk shard archive disc disk volume vol fold split section download zip series images image
    imgs img data dataset set subset patient patients pat subject case site center centre hospital clinic scanner
    slide session study visit
    """
)
# Words that are classes with a number behind them: grade 1, stage 2, BI-RADS 3.
GRADE_WORDS = _word_set(
    """
    grade grad gr stage stadium class classe klasse cls label type typ subtype level lvl score category cat severity
    degree birads rads pirads tirads lirads gleason isup figo cin kl who mayo mes nyha asa bethesda fitzpatrick
    fazekas aspects dr pt pn group cluster covid hpv her trisomy
    """
)
SIDES = _word_set("left right l r od os ou")
PLANES = _word_set("ap pa lateral lat frontal axial coronal sagittal cc mlo")  # views of one body part
# Names of folders below a class that distinguish views and sides.
VIEWS = SIDES | PLANES | _word_set("t1 t2 flair dwi adc male female pre post venous arterial portal")
FINDINGS = _word_set("positive negative pos neg benign malignant normal abnormal healthy")


def words_of(name: str) -> list[str]:
    """Returns the words and numbers of a name in lower case, without accents.

    >>> words_of("C-NMC_trainingData2"), words_of("Máscara")
    (['c', 'nmc', 'training', 'data', '2'], ['mascara'])
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", spaced) if not unicodedata.combining(sign))
    return [word.lower() for word in re.findall(r"[^\W\d_]+|\d+", plain)]


def are_renderings(names: Sequence[str]) -> bool:
    """Returns whether folders are named as ways to store or draw one picture; low and high alone may be grades.

    >>> are_renderings(["low_res", "high_res"]), are_renderings(["RGB", "grayscale"]), are_renderings(["low", "high"])
    (True, True, False)
    """
    words = [set(words_of(name)) for name in names]
    return all(each and each <= RENDERINGS and not each <= {"low", "high"} for each in words)


def are_views(names: Sequence[str]) -> bool:
    """Returns whether folders are named as sides or views of one body part, with the same words beside them.

    >>> are_views(["left_eye", "right_eye"]), are_views(["AP", "PA"]), are_views(["left ventricle", "right atrium"])
    (True, True, False)
    """
    words = [set(words_of(name)) for name in names]
    views = [each & (SIDES | PLANES) for each in words]
    return len(names) > 1 and all(views) and len({frozenset(each - VIEWS) for each in words}) == 1
