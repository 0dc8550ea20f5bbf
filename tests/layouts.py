"""Small folders with the layout and the file names of published data sets; their pictures are noise."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def write_picture(file: Path, number: int, size: tuple[int, int] = (48, 40)) -> None:
    """Writes a picture of noise; each number has another one."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def c_nmc(root: Path) -> None:
    """C-NMC 2019: folds of two classes; names are UID_<patient>_<picture>_<cell>_<class>."""
    for number in range(96):
        label, patient = ("all", 10 + number // 4) if number % 2 else ("hem", f"H{10 + number // 4}")
        fold = number // 32
        name = f"UID_{patient}_{1 + number % 4}_1_{label}.bmp"
        write_picture(root / f"C-NMC_training_data/fold_{fold}/{label}/{name}", number)


def ham10000(root: Path) -> None:
    """HAM10000: two folders of parts and a table of metadata."""
    rows = []
    for number in range(240):
        name, lesion = f"ISIC_{24306 + number:07}", number // 2
        write_picture(root / f"HAM10000_images_part_{1 + number % 2}/{name}.jpg", number)
        label = ("nv", "mel", "bkl")[lesion % 3]
        rows.append((f"HAM_{lesion:07}", name, label, "histo", 45.0, ("male", "female")[lesion % 2], "back"))
    columns = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "HAM10000_metadata.csv", index=False)


def isic_2019(root: Path) -> None:
    """ISIC 2019: one folder, one-hot labels, and lesions in a second table."""
    marks, lesions = [], []
    for number in range(160):
        name = f"ISIC_{number:07}"
        write_picture(root / f"ISIC_2019_Training_Input/{name}.jpg", number)
        marks.append((name, *(float(number // 2 % 4 == column) for column in range(4))))
        lesions.append((name, 45.0, "anterior torso", f"BCN_{number // 2:07}", "female"))
    pd.DataFrame(marks, columns=["image", "MEL", "NV", "BCC", "UNK"]).to_csv(
        root / "ISIC_2019_Training_GroundTruth.csv", index=False
    )
    pd.DataFrame(lesions, columns=["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]).to_csv(
        root / "ISIC_2019_Training_Metadata.csv", index=False
    )


def chexpert(root: Path) -> None:
    """CheXpert: several findings per image, empty where a report does not mention one."""
    rows = ["Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema,Pneumonia"]
    marks = (("1.0", "", "", ""), ("", "1.0", "1.0", ""), ("", "-1.0", "0.0", "1.0"), ("", "0.0", "1.0", ""))
    for number in range(160):
        path = f"train/patient{number // 2:05}/study1/view{1 + number % 2}_frontal.jpg"
        write_picture(root / path, number)
        rows.append(f"CheXpert-v1.0-small/{path},Female,60,Frontal,AP,{','.join(marks[number // 2 % 4])}")
    (root / "train.csv").write_text("\n".join(rows))


def nih(root: Path) -> None:
    """NIH ChestX-ray14: folders of parts, several findings in one cell."""
    findings = ("No Finding", "Effusion", "Effusion|Mass", "Mass")
    rows = []
    for number in range(160):
        name = f"{number // 2:08}_{number % 2:03}.png"
        write_picture(root / f"images_{1 + number // 80:03}/images/{name}", number)
        rows.append((name, findings[number // 2 % 4], number % 2, number // 2, "58", "M", "PA"))
    columns = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"]
    pd.DataFrame(rows, columns=[*columns, "View Position"]).to_csv(root / "Data_Entry_2017.csv", index=False)


def breakhis(root: Path) -> None:
    """BreakHis: class, tumor, slide and magnification as folders; the slide of a patient is in each name."""
    for number in range(160):
        slide, zoom = number // 4, (40, 100, 200, 400)[number % 4]
        label, kind, letters = (("benign", "adenosis", "B_A"), ("malignant", "ductal_carcinoma", "M_DC"))[slide % 2]
        name = f"SOB_{letters}-14-{22000 + slide}-{zoom}-001.png"
        folder = f"{label}/SOB/{kind}/SOB_{letters}_14-{22000 + slide}/{zoom}X"
        write_picture(root / "BreaKHis_v1/histology_slides/breast" / folder / name, number)


def chest_xray(root: Path) -> None:
    """Chest X-rays of Kaggle: given parts, a validation part of 16 pictures, patients in half of the names."""
    number = 0
    for part, count in (("train", 120), ("val", 16), ("test", 40)):
        for index in range(count):
            number += 1
            name = f"person{number // 2}_bacteria_{number}.jpeg" if index % 2 else f"IM-{number:04}-0001.jpeg"
            write_picture(root / f"{part}/{'PNEUMONIA' if index % 2 else 'NORMAL'}/{name}", number)


def bloodmnist(root: Path) -> None:
    """A file of MedMNIST's form: arrays of pictures and labels of three given parts."""
    arrays: dict[str, object] = {}
    for seed, (part, count) in enumerate((("train", 160), ("val", 40), ("test", 40))):
        rng = np.random.default_rng(seed)
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 8).astype(np.uint8)[:, None]
    root.mkdir(parents=True, exist_ok=True)
    np.savez(root / "bloodmnist.npz", **arrays)  # type: ignore[arg-type]


def write_dicom(file: Path, patient: str, number: int, *, intercept: int) -> None:
    """Writes a DICOM file of 12 bits; each number has another picture."""
    import pydicom

    data = pydicom.Dataset()
    data.SOPClassUID = pydicom.uid.CTImageStorage
    data.SOPInstanceUID, data.PatientID, data.Modality = f"1.2.3.{number}", patient, "CT"
    data.Rows = data.Columns = 64
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = 1, intercept
    values = np.random.default_rng(number).integers(1024, 1104, (64, 64))  # 0 to 80 HU by an intercept of -1024
    data.PixelData = values.astype("<u2").tobytes()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())


def head_ct(root: Path) -> None:
    """Slices of head CTs as DICOM, in Hounsfield units: a folder per class, the patient in the header."""
    for number in range(80):
        patient, label = number // 2, ("bleeding", "none")[number // 2 % 2]
        write_dicom(root / f"{label}/slice_{number:03}.dcm", f"CT{patient:03}", number, intercept=-1024)


def cbis_ddsm(root: Path) -> None:
    """CBIS-DDSM: a folder per view, whose name has the patient; a table with one row per region."""
    rows = []
    for number in range(160):
        patient, side, view = f"P_{number // 2:05}", ("LEFT", "RIGHT")[number // 2 % 2], ("CC", "MLO")[number % 2]
        folder = f"Mass-Training_{patient}_{side}_{view}"
        write_dicom(root / folder / "07-20-2016-DDSM/1.0-full/1-1.dcm", folder, number, intercept=0)
        label = ("MALIGNANT", "BENIGN", "MALIGNANT", "BENIGN_WITHOUT_CALLBACK")[number // 2 % 4]
        rows += [(patient, side, view, region, label, f"{folder}/1.3.6/000000.dcm") for region in (1, 2)]
    columns = ["patient_id", "left or right breast", "image view", "abnormality id", "pathology", "image file path"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "mass_case_description_train_set.csv", index=False)


# The folders of docs/datasets.md, by the names that its commands have.
LAYOUTS: dict[str, Callable[[Path], None]] = {
    "c-nmc": c_nmc,
    "ham10000": ham10000,
    "isic2019": isic_2019,
    "CheXpert-v1.0-small": chexpert,
    "nih": nih,
    "breakhis": breakhis,
    "chest_xray": chest_xray,
    "medmnist": bloodmnist,
    "head_ct": head_ct,
    "cbis-ddsm": cbis_ddsm,
}
