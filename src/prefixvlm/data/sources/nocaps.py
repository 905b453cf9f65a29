"""nocaps, its validation or its test images, as the split test: one sample for each image.

The key is the `id` of the image, which submissions need. The group `domain` is in-domain, near-domain or out-domain.
The captions of the test images are secret, so those samples have none.
"""

from collections import defaultdict
from pathlib import Path

from prefixvlm.data.sources._files import (
    Record,
    Samples,
    captioned,
    field,
    id_field,
    image_path,
    optional_texts,
    read_json,
    samples_of,
)

SOURCE = "nocaps, https://nocaps.org"
LICENCE = "images of Open Images, CC BY 2.0; for the captions see https://nocaps.org"
TERMS = ""
SPLITS = ("test",)
ARGUMENTS = {
    "annotations": "nocaps_val_4500_captions.json: ten captions an image, from "
    "https://nocaps.s3.amazonaws.com/nocaps_val_4500_captions.json (or, for a submission, "
    "https://s3.amazonaws.com/nocaps/nocaps_test_image_info.json)",
    "images": "DIR: the folder of the images, from https://s3.amazonaws.com/open-images-dataset/tar/validation.tar.gz "
    "(or test.tar.gz)",
}


def samples(split: str, annotations: Path, images: Path) -> Samples:
    file = read_json(annotations, dict, ARGUMENTS["annotations"])
    captions: dict[str, list[str]] = defaultdict(list)
    for each in field(file, "annotations", list, annotations) if "annotations" in file else []:
        captions[id_field(each, "image_id", annotations)].append(field(each, "caption", str, annotations))
    records: list[Record] = []
    for image in field(file, "images", list, annotations):
        key, path = id_field(image, "id", annotations), Path(field(image, "file_name", str, annotations))
        image_file = image_path(images, "validation" if captions else "test", path.name)
        groups = optional_texts(image, ("domain",), annotations)
        records += captioned(key, image_file, captions[key], {"groups": groups})
    return samples_of(records, ARGUMENTS["images"])
